//! Model cards: Markdown from a package, as a page or as text for a terminal.
//!
//! Promises: whatever a card holds, the page runs nothing and loads nothing: raw HTML is dropped, links lead to the web or within the page only,
//! pictures are told by their words; text for a terminal holds no control characters.
//!
//! Source: CommonMark with tables; a YAML block on top, as model hubs write it, is left out.

use modelyard_core::package::Package;
use pulldown_cmark::{CowStr, Event, HeadingLevel, Options, Parser, Tag, TagEnd, html};

/// Longest card that is read, in bytes.
pub const MAX_BYTES: u64 = 1 << 20;

const STYLE: &str = "body{font:16px/1.5 sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#222}\
code,pre{background:#f4f4f4}pre{padding:.6rem;overflow:auto}table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2rem .6rem}";

fn events(markdown: &str) -> Parser<'_> {
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_YAML_STYLE_METADATA_BLOCKS;
    Parser::new_ext(markdown, options)
}

fn is_safe(link: &str) -> bool {
    let scheme = link.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
    link.starts_with('#') || matches!(scheme.as_deref(), Some("http" | "https" | "mailto"))
}

fn safe(event: Event<'_>) -> Option<Event<'_>> {
    match event {
        Event::Html(_) | Event::InlineHtml(_) => None,
        Event::Start(Tag::HtmlBlock | Tag::Image { .. }) | Event::End(TagEnd::HtmlBlock | TagEnd::Image) => None,
        Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
            let dest_url = if is_safe(&dest_url) { dest_url } else { CowStr::from("#") };
            Some(Event::Start(Tag::Link { link_type, dest_url, title, id }))
        }
        other => Some(other),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// What a package says of itself, as sections under its card: what its inputs and outputs mean, its risks, what it was made from; nothing of what it does not say.
pub fn sections(package: &Package) -> String {
    meanings(package) + &risks(package) + &lineage(package)
}

/// Text for Markdown: nothing in it begins or ends a cell, code or a line.
fn cell(text: &str) -> String {
    text.replace(['`', '|', '\n', '\r'], " ")
}

/// What inputs and outputs mean.
pub fn meanings(package: &Package) -> String {
    if package.meanings.is_empty() {
        return String::new();
    }
    let mut lines = vec!["\n\n## Inputs and outputs\n".to_owned()];
    for (side, all) in [("input", &package.meanings.inputs), ("output", &package.meanings.outputs)] {
        lines.extend(all.iter().map(|(name, meaning)| format!("- {side} `{}`: {}", cell(name), cell(&meaning.line()))));
    }
    lines.join("\n") + "\n"
}

/// What loading its files may do.
fn risks(package: &Package) -> String {
    if package.risks.is_empty() {
        return String::new();
    }
    let lines = package.risks.iter().map(|(path, risk)| format!("- `{}` is {}", cell(path), cell(risk)));
    format!("\n\n## Risks\n\n{}\n", lines.collect::<Vec<_>>().join("\n"))
}

/// What a package was made from, as a section under its card; nothing if it says nothing.
fn lineage(package: &Package) -> String {
    let Some(lineage) = &package.lineage else { return String::new() };
    let code = |text: &str| text.replace(['`', '\n'], "");
    let mut lines = vec!["\n\n## Made from\n".to_owned()];
    lines.extend(lineage.built_from.iter().map(|one| format!("- package `{one}`")));
    let texts = [("source", &lineage.source), ("revision", &lineage.revision)];
    lines.extend(texts.into_iter().filter_map(|(key, text)| Some(format!("- {key} `{}`", code(text.as_ref()?)))));
    lines.extend(lineage.datasets.iter().map(|(name, digest)| format!("- data set `{}`: `{digest}`", code(name))));
    lines.join("\n") + "\n"
}

/// The card as a page of its own.
pub fn page(title: &str, markdown: &str) -> String {
    let mut body = String::new();
    html::push_html(&mut body, events(markdown).filter_map(safe));
    let title = escaped(title);
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style></head>\
         <body>\n{body}</body></html>\n"
    )
}

/// The card as lines for a terminal.
pub fn text(markdown: &str) -> String {
    let (mut out, mut depth, mut code, mut hidden) = (String::new(), 0_usize, false, false);
    for event in events(markdown) {
        match event {
            Event::Start(Tag::MetadataBlock(_)) => hidden = true,
            Event::End(TagEnd::MetadataBlock(_)) => hidden = false,
            Event::Start(Tag::Heading { level, .. }) => {
                blank(&mut out);
                out.push_str(if level == HeadingLevel::H1 { "" } else { "# " });
            }
            Event::Start(Tag::Paragraph | Tag::Table(_)) if depth == 0 => blank(&mut out),
            Event::Start(Tag::List(_)) => {
                if depth == 0 {
                    blank(&mut out);
                }
                depth += 1;
            }
            Event::End(TagEnd::List(_)) => depth = depth.saturating_sub(1),
            Event::Start(Tag::Item) => {
                line(&mut out);
                out.push_str(&"  ".repeat(depth.saturating_sub(1)));
                out.push_str("- ");
            }
            Event::Start(Tag::CodeBlock(_)) => {
                blank(&mut out);
                code = true;
            }
            Event::End(TagEnd::CodeBlock) => code = false,
            Event::Start(Tag::TableRow | Tag::TableHead) | Event::End(TagEnd::Heading(_)) => line(&mut out),
            Event::End(TagEnd::TableCell) => out.push_str("  "),
            Event::Text(text) if code => text.lines().for_each(|each| {
                line(&mut out);
                out.push_str("    ");
                out.push_str(&plain(each));
            }),
            Event::Text(text) | Event::Code(text) if !hidden => out.push_str(&plain(&text)),
            Event::SoftBreak | Event::HardBreak => line(&mut out),
            Event::Rule => blank(&mut out),
            _ => {}
        }
    }
    out.trim().to_owned()
}

fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

fn line(out: &mut String) {
    if !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
}

fn blank(out: &mut String) {
    line(out);
    if !out.is_empty() && !out.ends_with("\n\n") {
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: &str = "---\nlicense: mit\n---\n# Wine\n\nGood *wine*, see [here](https://example.org) and [there](javascript:alert(1)).\n\n\
        <script>alert(2)</script>\n\nx <img src=x onerror=alert(3)> ![words](http://example.org/p.png)\n\n\
        - one\n- two\n\n| metric | value |\n| --- | --- |\n| f1 | 0.9 |\n\n```\ncode \u{1b}[31m\n```\n";

    #[test]
    fn a_page_runs_and_loads_nothing() {
        let page = page("<b>wine", CARD);
        for part in
            ["<h1>Wine</h1>", "<em>wine</em>", "href=\"https://example.org\"", "<td>f1</td>", "&lt;b&gt;wine", "words"]
        {
            assert!(page.contains(part), "{part}: {page}");
        }
        for part in ["<script", "javascript:", "onerror", "<img", "p.png", "license: mit"] {
            assert!(!page.contains(part), "{part}: {page}");
        }
        for link in
            ["JaVaScRiPt:x", "data:text/html,x", "vbscript:x", "file:///etc/passwd", " javascript:x", "//host/x"]
        {
            assert!(!is_safe(link), "{link}");
        }
    }

    #[test]
    fn text_reads_well_and_holds_no_control_characters() {
        let text = text(CARD);
        assert!(text.starts_with("Wine\n\nGood wine, see here and there.\n"), "{text}");
        assert!(
            text.contains("\n- one\n- two\n") && text.contains("f1  0.9") && text.contains("    code [31m"),
            "{text}"
        );
        assert!(!text.chars().any(|c| c.is_control() && c != '\n') && !text.contains("license"), "{text:?}");
    }
}
