//! `multipart/form-data`, read strictly.

use memchr::memmem;

/// One part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part<'a> {
    /// The field's name.
    pub name: String,
    /// The file's name, if it is a file.
    pub file: Option<String>,
    /// The type it is declared as.
    pub kind: Option<String>,
    /// The content.
    pub content: &'a [u8],
}

/// The parts of a body, or what is wrong with it.
pub(crate) fn parse<'a>(content_type: &str, body: &'a [u8]) -> Result<Vec<Part<'a>>, &'static str> {
    let boundary = content_type
        .split(';')
        .filter_map(|parameter| parameter.trim().split_once('='))
        .find(|(name, _)| name.eq_ignore_ascii_case("boundary"))
        .map(|(_, value)| value.trim_matches('"'))
        .filter(|boundary| !boundary.is_empty())
        .ok_or("the content type has no boundary")?;
    let opening = format!("--{boundary}");
    let divider = format!("\r\n--{boundary}");
    let mut rest =
        body.strip_prefix(opening.as_bytes()).ok_or("the body does not begin with the boundary")?;
    let mut parts = Vec::new();
    loop {
        if rest.starts_with(b"--") {
            return Ok(parts);
        }
        rest = rest.strip_prefix(b"\r\n").ok_or("a boundary is not followed by a line break")?;
        let end = memmem::find(rest, divider.as_bytes()).ok_or("the last boundary is missing")?;
        let (part, after) = rest.split_at(end);
        rest = &after[divider.len()..];
        let blank = memmem::find(part, b"\r\n\r\n").ok_or("a part has no headers")?;
        let headers = std::str::from_utf8(&part[..blank]).map_err(|_| "headers are not text")?;
        let header = |wanted: &str| {
            let mut lines = headers.lines().filter_map(|line| line.split_once(':'));
            lines.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
        };
        let disposition = header("content-disposition")
            .filter(|value| value.starts_with("form-data"))
            .ok_or("a part is not form-data")?;
        let parameter = |wanted: &str| {
            disposition
                .split(';')
                .filter_map(|piece| piece.trim().split_once('='))
                .find(|(name, _)| *name == wanted)
                .map(|(_, value)| value.trim_matches('"').to_owned())
        };
        parts.push(Part {
            name: parameter("name").ok_or("a part has no name")?,
            file: parameter("filename"),
            kind: header("content-type").map(str::to_owned),
            content: &part[blank + 4..],
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_and_damage_is_refused() {
        let body =
            b"--b\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\na fox\r\nruns\r\n\
            --b\r\ncontent-disposition: form-data; name=\"none\"; filename=\"\"\r\n\
            Content-Type: application/octet-stream\r\n\r\n\r\n--b--\r\n";
        let kind = "multipart/form-data; boundary=b";
        let part = |name: &str, file: Option<&str>, content| Part {
            name: name.to_owned(),
            file: file.map(str::to_owned),
            kind: file.map(|_| "application/octet-stream".to_owned()),
            content,
        };
        let parts = [part("prompt", None, &b"a fox\r\nruns"[..]), part("none", Some(""), b"")];
        assert_eq!(parse(kind, body).unwrap(), parts);
        assert!(parse("multipart/form-data", body).is_err());
        assert!(parse(kind, &body[1..]).is_err());
        assert!(parse(kind, &body[..body.len() - 6]).is_err());
        assert!(parse("multipart/form-data; boundary=other", body).is_err());
    }
}
