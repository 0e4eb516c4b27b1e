//! Runs a gateway alone, to try and to measure it: `gateway LISTEN FOLDER THREADS [takeover]`.

use modelyard_gateway::{GatewayOptions, run};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, folder, threads, rest @ ..] = arguments.as_slice() else {
        return Err("usage: gateway LISTEN FOLDER THREADS [takeover]".into());
    };
    let folder = std::path::PathBuf::from(folder);
    run(GatewayOptions {
        listen: listen.parse()?,
        admin: folder.join("admin.sock"),
        state_dir: folder.join("state"),
        running: folder.join("gateway.json"),
        threads: threads.parse()?,
        takeover: rest.iter().any(|word| word == "takeover"),
    })?;
    Ok(())
}
