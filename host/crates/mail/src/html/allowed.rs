//! What may be in the HTML of a mail: the lists, and nothing but the lists.
//!
//! They are patterns, not arrays: each is asked for every tag or attribute of a mail, twice, and a pattern is answered
//! ten times as fast.

/// What becomes of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    Keep,
    /// Its tags go, its content stays.
    Unwrap,
    /// It goes with its content: that runs, loads, or is not markup, so that unwrapping would make it markup.
    Drop,
}

fn is_kept(name: &str) -> bool {
    matches!(
        name,
        "html"
            | "head"
            | "title"
            | "meta"
            | "style"
            | "body"
            | "a"
            | "abbr"
            | "acronym"
            | "address"
            | "area"
            | "article"
            | "aside"
            | "b"
            | "bdi"
            | "bdo"
            | "big"
            | "blockquote"
            | "br"
            | "caption"
            | "center"
            | "cite"
            | "code"
            | "col"
            | "colgroup"
            | "dd"
            | "del"
            | "details"
            | "dfn"
            | "dir"
            | "div"
            | "dl"
            | "dt"
            | "em"
            | "figcaption"
            | "figure"
            | "font"
            | "footer"
            | "h1"
            | "h2"
            | "h3"
            | "h4"
            | "h5"
            | "h6"
            | "header"
            | "hgroup"
            | "hr"
            | "i"
            | "img"
            | "ins"
            | "kbd"
            | "li"
            | "main"
            | "map"
            | "mark"
            | "menu"
            | "nav"
            | "ol"
            | "p"
            | "pre"
            | "q"
            | "rp"
            | "rt"
            | "ruby"
            | "s"
            | "samp"
            | "section"
            | "small"
            | "span"
            | "strike"
            | "strong"
            | "sub"
            | "summary"
            | "sup"
            | "table"
            | "tbody"
            | "td"
            | "tfoot"
            | "th"
            | "thead"
            | "time"
            | "tr"
            | "tt"
            | "u"
            | "ul"
            | "var"
            | "wbr"
            | "nobr"
            | "data"
            | "label"
            | "fieldset"
            | "legend"
            | "meter"
            | "progress"
    )
}

fn is_dropped(name: &str) -> bool {
    matches!(
        name,
        "script"
            | "noscript"
            | "iframe"
            | "object"
            | "embed"
            | "applet"
            | "param"
            | "svg"
            | "math"
            | "template"
            | "xmp"
            | "noembed"
            | "noframes"
            | "frameset"
            | "frame"
            | "plaintext"
            | "select"
            | "textarea"
            | "audio"
            | "video"
            | "canvas"
            | "portal"
            | "fencedframe"
            | "listing"
            | "datalist"
            | "dialog"
            | "image"
    )
}

/// Taking these away changes what the mail does; the author hears of it.
pub(super) fn is_notable(name: &str) -> bool {
    matches!(name, "form" | "input" | "button" | "base" | "link" | "marquee")
}

fn is_listed(name: &str) -> bool {
    matches!(
        name,
        "abbr"
            | "align"
            | "alink"
            | "alt"
            | "axis"
            | "background"
            | "bgcolor"
            | "border"
            | "bordercolor"
            | "cellpadding"
            | "cellspacing"
            | "char"
            | "charoff"
            | "charset"
            | "class"
            | "clear"
            | "color"
            | "cols"
            | "colspan"
            | "compact"
            | "content"
            | "coords"
            | "datetime"
            | "dir"
            | "face"
            | "frame"
            | "headers"
            | "height"
            | "hidden"
            | "href"
            | "hreflang"
            | "hspace"
            | "http-equiv"
            | "id"
            | "ismap"
            | "itemprop"
            | "itemscope"
            | "itemtype"
            | "lang"
            | "link"
            | "loading"
            | "max"
            | "media"
            | "min"
            | "name"
            | "noshade"
            | "nowrap"
            | "open"
            | "rel"
            | "reversed"
            | "role"
            | "rowspan"
            | "rules"
            | "scope"
            | "shape"
            | "size"
            | "span"
            | "src"
            | "start"
            | "style"
            | "summary"
            | "target"
            | "text"
            | "title"
            | "type"
            | "valign"
            | "value"
            | "vlink"
            | "vspace"
            | "width"
    )
}

pub(super) fn is_formatting(name: &str) -> bool {
    matches!(
        name,
        "a" | "b" | "big" | "code" | "em" | "font" | "i" | "nobr" | "s" | "small" | "strike" | "strong" | "tt" | "u"
    )
}

/// What is commonly left open and closed by what follows. Each nests only inside something that is counted.
pub(super) fn closes_itself(name: &str) -> bool {
    matches!(name, "p" | "li" | "dt" | "dd" | "tr" | "td" | "th" | "tbody" | "thead" | "tfoot" | "colgroup" | "caption")
}

pub(super) fn element(name: &str, conditional: bool) -> Judgement {
    if is_kept(name) || (conditional && is_office(name)) {
        Judgement::Keep
    } else if is_dropped(name) {
        Judgement::Drop
    } else {
        Judgement::Unwrap
    }
}

/// Whether an attribute may stay, its value aside. Outlook's shapes have too many to list; there, anything plain may.
pub(super) fn attribute(name: &str, conditional: bool) -> bool {
    let plain = || name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_:".contains(&b));
    is_listed(name)
        || (plain()
            && (name.starts_with("data-")
                || name.starts_with("aria-")
                || name == "xmlns"
                || name.starts_with("xmlns:")
                || (conditional && !is_active(name))))
}

/// Whether the value of the attribute is a link.
pub(super) fn is_link(name: &str) -> bool {
    matches!(name, "href" | "src" | "background" | "o:href" | "o:relid" | "xlink:href")
}

/// Whether a `<meta>` only describes: no refresh, no cookies, no policy.
pub(super) fn meta(attribute: impl Fn(&str) -> Option<String>) -> bool {
    match attribute("http-equiv") {
        None => true,
        Some(kind) => {
            matches!(kind.trim().to_ascii_lowercase().as_str(), "content-type" | "x-ua-compatible" | "content-language")
        }
    }
}

/// One of the marks of conditional comments that hold no HTML: `[if !mso]><!`, `[if !mso]>`, `[if !mso]`, `<![endif]`,
/// `[endif]`.
pub(super) fn is_conditional_mark(text: &str) -> bool {
    if text == "<![endif]" || text == "[endif]" {
        return true;
    }
    let text = text.strip_suffix("<!").unwrap_or(text);
    let text = text.strip_suffix('>').unwrap_or(text);
    text.strip_prefix("[if ").and_then(|rest| rest.strip_suffix(']')).is_some_and(is_condition)
}

/// Condition and inside of `[if …]>…<![endif]`.
pub(super) fn conditional(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix("[if ")?.strip_suffix("<![endif]")?;
    let (condition, inside) = inner.split_once("]>")?;
    is_condition(condition).then_some((condition, inside))
}

fn is_condition(text: &str) -> bool {
    // `(gte mso 9)|(IE)`: words, numbers and signs; longest in use is about forty characters.
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b" ()|&!.".contains(&b))
}

fn is_office(name: &str) -> bool {
    name == "xml" || ["o:", "v:", "w:"].iter().any(|prefix| name.starts_with(prefix))
}

fn is_active(name: &str) -> bool {
    name.starts_with("on")
        || matches!(
            name,
            "srcdoc"
                | "srcset"
                | "action"
                | "formaction"
                | "ping"
                | "poster"
                | "data"
                | "code"
                | "codebase"
                | "archive"
                | "classid"
                | "manifest"
                | "profile"
                | "longdesc"
                | "cite"
                | "dynsrc"
                | "lowsrc"
                | "usemap"
                | "is"
        )
}
