//! Which form of the simple API an answer takes.
//!
//! Source: PyPA specification "Simple repository API", "Version + Format Selection"; RFC 9110, section 12.5.1.

/// A form of the simple API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// JSON.
    Json,
    /// HTML under its own name.
    Html,
    /// HTML under its old name.
    OldHtml,
}

impl Form {
    /// What the answer says it is; `latest` is never said.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/vnd.pypi.simple.v1+json",
            Self::Html => "application/vnd.pypi.simple.v1+html",
            Self::OldHtml => "text/html; charset=utf-8",
        }
    }

    fn of(name: &str) -> Option<Self> {
        match name {
            "application/vnd.pypi.simple.v1+json" | "application/vnd.pypi.simple.latest+json" => Some(Self::Json),
            "application/vnd.pypi.simple.v1+html" | "application/vnd.pypi.simple.latest+html" => Some(Self::Html),
            "text/html" | "text/*" | "*/*" => Some(Self::OldHtml),
            "application/*" => Some(Self::Json),
            _ => None,
        }
    }
}

/// The form that `accept` likes best; of equals the first. None when nothing fits.
pub fn choose(accept: Option<&str>) -> Option<Form> {
    let Some(accept) = accept.filter(|text| !text.trim().is_empty()) else { return Some(Form::OldHtml) };
    let mut best: Option<(Form, u16)> = None;
    for wanted in accept.split(',') {
        let mut parts = wanted.split(';').map(str::trim);
        let Some(form) = parts.next().and_then(|name| Form::of(&name.to_ascii_lowercase())) else { continue };
        let quality = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        let quality = quality.map_or(1_000, |text| match text.trim().parse::<f64>() {
            // Between 0 and 1000 after the clamp.
            Ok(quality) => (quality.clamp(0.0, 1.0) * 1_000.0) as u16,
            Err(_) => 0,
        });
        if quality > 0 && best.is_none_or(|(_, before)| quality > before) {
            best = Some((form, quality));
        }
    }
    best.map(|(form, _)| form)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_follows_what_is_asked_for() {
        let pip = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01";
        assert_eq!(choose(Some(pip)), Some(Form::Json));
        assert_eq!(choose(None), Some(Form::OldHtml));
        assert_eq!(choose(Some("*/*")), Some(Form::OldHtml));
        assert_eq!(choose(Some("text/html;q=0.2, application/vnd.pypi.simple.latest+html")), Some(Form::Html));
        assert_eq!(choose(Some("application/vnd.pypi.simple.latest+json")), Some(Form::Json));
        assert_eq!(choose(Some("application/vnd.pypi.simple.v1+json;q=0, text/html")), Some(Form::OldHtml));
        assert_eq!(choose(Some("application/vnd.pypi.simple.v2+json, image/png")), None);
        assert_eq!(choose(Some("text/html;q=nan")), None);
    }

    proptest::proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "[a-z/*;=0-9., +]{0,60}") {
            let _ = choose(Some(&text));
        }
    }
}
