//! The `pastfs` program: parse, run, exit.

fn main() {
    pastfs::cli::main()
}
