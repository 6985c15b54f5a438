//! What a query string says, taken out field by field; what nobody took is an error.

use crate::{config::nearest, error::Error};

/// The fields of a query string, or the flags of the command line that stand for them.
#[derive(Debug, Default)]
pub struct Params {
    given: Vec<(String, String)>,
    known: Vec<&'static str>,
}

impl Params {
    /// Takes pairs as they came; one without a value is as good as none.
    pub fn new(given: Vec<(String, String)>) -> Self {
        Self { given, known: Vec::new() }
    }

    /// A field, unless it is not there or empty. Twice is an error, and so is a NUL character,
    /// which PostgreSQL cannot hold.
    pub fn take(&mut self, name: &'static str) -> Result<Option<String>, Error> {
        self.known.push(name);
        let mut found = None;
        let mut twice = false;
        self.given.retain_mut(|(key, value)| {
            let mine = key == name;
            if mine {
                twice |= found.replace(std::mem::take(value)).is_some();
            }
            !mine
        });
        if twice {
            return Err(Error::invalid(name, format!("{name} is given twice; give it once")));
        }
        match found.filter(|value| !value.is_empty()) {
            Some(value) if value.contains('\0') => Err(no_nul(name)),
            found => Ok(found),
        }
    }

    /// Gives a field a value where it has none.
    pub fn usual(&mut self, name: &'static str, value: String) {
        if !self.given.iter().any(|(key, _)| key == name) {
            self.given.push((name.to_owned(), value));
        }
    }

    /// The fields that begin with a prefix, without it.
    pub fn take_prefixed(&mut self, prefix: &'static str) -> Result<Vec<(String, String)>, Error> {
        let mut found = Vec::new();
        self.given.retain_mut(|(key, value)| match key.strip_prefix(prefix) {
            Some(rest) => {
                found.push((rest.to_owned(), std::mem::take(value)));
                false
            }
            None => true,
        });
        if found.iter().any(|(name, value)| name.contains('\0') || value.contains('\0')) {
            return Err(no_nul(prefix));
        }
        Ok(found)
    }

    /// A number of rows, from 1 to `most`.
    pub fn limit(&mut self, usual: u32, most: u32) -> Result<u32, Error> {
        let Some(text) = self.take("limit")? else { return Ok(usual) };
        let number = text.parse().ok().filter(|n| (1..=most).contains(n));
        number.ok_or_else(|| {
            Error::invalid(
                "limit",
                format!("limit is {text:?}; wanted is a number from 1 to {most}"),
            )
        })
    }

    /// Refuses what nobody took: a misspelt filter must not answer for everything.
    pub fn finish(self) -> Result<(), Error> {
        let Some((name, _)) = self.given.into_iter().next() else { return Ok(()) };
        let guess = nearest(&name, self.known.iter().copied())
            .map_or_else(|| self.known.join(", "), |near| format!("did you mean {near:?}?"));
        Err(Error::invalid(&name, format!("there is no parameter {name:?}; {guess}")))
    }
}

fn no_nul(name: &str) -> Error {
    Error::invalid(name, format!("{name} holds a NUL character; nothing here does"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, &str)]) -> Params {
        Params::new(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn every_field_is_taken_once_or_refused() {
        let mut given = params(&[("from", "a"), ("to", ""), ("label.team", "x"), ("limit", "5")]);
        assert_eq!(given.take("from").unwrap().as_deref(), Some("a"));
        assert_eq!(given.take("to").unwrap(), None);
        assert_eq!(given.take("model").unwrap(), None);
        assert_eq!(given.take_prefixed("label.").unwrap(), [("team".to_owned(), "x".to_owned())]);
        assert_eq!(given.limit(100, 1000).unwrap(), 5);
        given.finish().unwrap();

        let twice = params(&[("from", "a"), ("from", "b")]).take("from").unwrap_err();
        assert_eq!(twice.param.as_deref(), Some("from"));
        for wrong in ["0", "1001", "-1", "x", "1.5", "99999999999"] {
            let error = params(&[("limit", wrong)]).limit(100, 1000).unwrap_err();
            assert_eq!(error.param.as_deref(), Some("limit"), "{wrong}");
        }
        assert!(params(&[("model", "a\0b")]).take("model").is_err());
        assert!(params(&[("label.a", "\0")]).take_prefixed("label.").is_err());
        let mut misspelt = params(&[("modle", "flux")]);
        misspelt.take("model").unwrap();
        let error = misspelt.finish().unwrap_err();
        assert_eq!(error.param.as_deref(), Some("modle"));
        assert!(error.message.contains("\"model\""), "{}", error.message);
    }
}
