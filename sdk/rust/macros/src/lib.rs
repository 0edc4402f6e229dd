//! `#[handler]` and `#[templates]`: they leave the function as it is and export it as the plugin's entry.
//!
//! No parser crate: all that is needed of the function is its name, and that it is neither `async` nor generic.
//!
//! Not here: what the entry does; that is `sandpost_sdk::__private`, an ordinary function that can be read.

use proc_macro::{Delimiter, Group, Ident, Punct, Spacing, Span, TokenStream, TokenTree};

/// Makes a function the plugin's handler. One for each plugin.
///
/// See the documentation of `sandpost_sdk`.
#[proc_macro_attribute]
pub fn handler(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand(&arguments, item, "handler")
}

/// Makes a function that returns `Templates` the plugin's list of templates. One for each plugin.
///
/// See the documentation of `sandpost_sdk::template`.
#[proc_macro_attribute]
pub fn templates(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand(&arguments, item, "templates")
}

fn expand(arguments: &TokenStream, item: TokenStream, entry: &str) -> TokenStream {
    if !arguments.is_empty() {
        return refuse(Span::call_site(), &format!("`#[{entry}]` takes no arguments"));
    }
    match function_name(&item, entry) {
        // The function itself comes first, so that its own errors are the first to be shown.
        Ok(name) => allow_by_value().into_iter().chain(item).chain(call_entry(entry, name)).collect(),
        Err((span, message)) => item.into_iter().chain(refuse(span, &message)).collect(),
    }
}

/// The name of the function, or where and why this is not one that can be exported.
fn function_name(item: &TokenStream, entry: &str) -> Result<Ident, (Span, String)> {
    let mut tokens = item.clone().into_iter();
    while let Some(token) = tokens.next() {
        let TokenTree::Ident(word) = token else { continue };
        match word.to_string().as_str() {
            "async" => {
                let reason = "the host's functions are synchronous: leave `async` out (batch calls run concurrently)";
                return Err((word.span(), reason.to_owned()));
            }
            "fn" => {
                let Some(TokenTree::Ident(name)) = tokens.next() else { break };
                return match tokens.next() {
                    Some(TokenTree::Punct(punct)) if punct.as_char() == '<' => {
                        Err((name.span(), format!("a function with `#[{entry}]` cannot be generic")))
                    }
                    _ => Ok(name),
                };
            }
            "struct" | "enum" | "impl" | "mod" | "trait" => break,
            _ => {}
        }
    }
    Err((Span::call_site(), format!("`#[{entry}]` belongs on a function")))
}

/// Arguments are handed over by value, whether the function consumes them or not; clippy's pedantic lints would have
/// them borrowed.
fn allow_by_value() -> TokenStream {
    let attribute = r#"#[allow(clippy::needless_pass_by_value, reason = "the SDK hands the arguments over")]"#;
    // The text above is a literal: it always lexes.
    attribute.parse().unwrap_or_default()
}

/// `::sandpost_sdk::__export!(entry name);`, with the function's own span on `name` for errors about its signature.
fn call_entry(entry: &str, name: Ident) -> TokenStream {
    let punct = |character, spacing| TokenTree::from(Punct::new(character, spacing));
    let ident = |word: &str| TokenTree::from(Ident::new(word, Span::call_site()));
    let path = |word: &str| [punct(':', Spacing::Joint), punct(':', Spacing::Alone), ident(word)];
    let inner = [ident(entry), TokenTree::from(name)].into_iter().collect();
    let mut tokens: Vec<TokenTree> = Vec::new();
    tokens.extend(path("sandpost_sdk"));
    tokens.extend(path("__export"));
    tokens.push(punct('!', Spacing::Alone));
    tokens.push(Group::new(Delimiter::Brace, inner).into());
    tokens.into_iter().collect()
}

fn refuse(span: Span, message: &str) -> TokenStream {
    let text = proc_macro::Literal::string(message);
    let inner = std::iter::once(TokenTree::from(text)).collect();
    let tokens = [
        TokenTree::from(Ident::new("compile_error", span)),
        Punct::new('!', Spacing::Alone).into(),
        Group::new(Delimiter::Brace, inner).into(),
    ];
    tokens
        .into_iter()
        .map(|mut token| {
            token.set_span(span);
            token
        })
        .collect()
}
