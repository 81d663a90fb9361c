//! The `pastfs` program: parse, run, exit.

fn main() -> std::process::ExitCode {
    pastfs::cli::main()
}
