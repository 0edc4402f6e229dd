//! Prints what each suite ran against and what was not checked, and clears it: the last step of `cargo xtask test`.

fn main() {
    print!("{}", sandpost_services::summary::take());
}
