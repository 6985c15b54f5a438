//! Replies that are forms: `multipart/form-data` (RFC 7578), read as it is.

use crate::Reply;

/// One part of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Section<'a> {
    /// The name of its field.
    pub(crate) name: &'a str,
    /// What it holds.
    pub(crate) bytes: &'a [u8],
}

/// The parts of a reply whose content type says that it is a form; `None` where it is none, or
/// cannot be read to its end.
pub(crate) fn sections(reply: &Reply) -> Option<Vec<Section<'_>>> {
    let kind = reply.header("content-type")?;
    let (kind, parameters) = kind.split_once(';')?;
    if !kind.trim().to_ascii_lowercase().starts_with("multipart/") {
        return None;
    }
    let boundary = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"'))
    })?;
    let delimiter = format!("--{boundary}");
    // The first delimiter may stand at the very beginning, the others follow a line's end.
    let mut rest = after(reply.text(), delimiter.as_bytes())?;
    let next = format!("\r\n{delimiter}");
    let mut sections = Vec::new();
    while !rest.starts_with(b"--") {
        let body = after(rest, b"\r\n\r\n")?;
        let head = rest.get(..rest.len() - body.len())?;
        let bytes = body.get(..find(body, next.as_bytes())?)?;
        if let Some(name) = name(std::str::from_utf8(head).ok()?) {
            sections.push(Section { name, bytes });
        }
        rest = body.get(bytes.len() + next.len()..)?;
    }
    Some(sections)
}

/// The name in a part's `content-disposition`.
fn name(head: &str) -> Option<&str> {
    let line = head.lines().find_map(|line| {
        let (header, value) = line.split_once(':')?;
        header.trim().eq_ignore_ascii_case("content-disposition").then_some(value)
    })?;
    line.split(';').find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        key.trim().eq_ignore_ascii_case("name").then(|| value.trim().trim_matches('"'))
    })
}

fn after<'a>(bytes: &'a [u8], mark: &[u8]) -> Option<&'a [u8]> {
    bytes.get(find(bytes, mark)? + mark.len()..)
}

fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).position(|window| window == mark)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ReplyBody;

    #[test]
    fn forms_are_read_to_their_end_or_not_at_all() {
        let quoted = "multipart/form-data; charset=x; boundary=\"b-1\"";
        let whole = "--b-1\r\nContent-Disposition: form-data; name=\"job\"; filename=\"job.json\"\r\n\
                     Content-Type: application/json\r\n\r\n{}\r\n--b-1\r\n\
                     content-disposition: form-data; filename=\"a;b\"; name=output\r\n\r\n\
                     \r\n--b\r\n--b-1--\r\n";
        let both = Some(vec![("job", "{}"), ("output", "\r\n--b")]);
        for (kind, body, want) in [
            (quoted, whole, both.clone()),
            ("Multipart/Form-Data;boundary=b-1", whole, both),
            ("multipart/form-data; boundary=b-1", "--b-1--", Some(Vec::new())),
            // Cut off, without a boundary, and no form at all.
            (quoted, &whole[..whole.len() - 12], None),
            (quoted, "--b-1\r\ncontent-disposition: form-data", None),
            (quoted, "--b-1", None),
            (quoted, "", None),
            ("multipart/form-data", whole, None),
            ("multipart/form-data; boundary=other", whole, None),
            ("application/json; boundary=b-1", whole, None),
            ("text/html", whole, None),
        ] {
            let reply = Reply {
                status: 200,
                headers: vec![("content-type".to_owned(), kind.to_owned())],
                body: ReplyBody::Text(bytes::Bytes::from(body.to_owned())),
            };
            let got = sections(&reply).map(|sections| {
                let text = |bytes| std::str::from_utf8(bytes).unwrap().to_owned();
                sections.iter().map(|s| (s.name, text(s.bytes))).collect::<Vec<_>>()
            });
            let want = want.map(|all| {
                all.into_iter().map(|(name, text)| (name, text.to_owned())).collect::<Vec<_>>()
            });
            assert_eq!(got, want, "{kind} {body}");
        }
    }
}
