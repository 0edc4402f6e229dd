//! The server as a program: `sandpost-test-ses [address]`. Prints its URL, and serves until it is ended.

use std::io::Write as _;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let address = address.parse().map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidInput, error))?;
    let ses = sandpost_test_ses::Ses::start_at(address).await?;
    writeln!(std::io::stdout(), "{}", ses.url())?;
    ses.forever().await;
    Ok(())
}
