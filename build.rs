//! Compiles the CUDA kernels, in builds with CUDA only.
//!
//! One module: machine code for the compute capability of the build, PTX of it for newer chips, and machine code for those
//! named in `LUMPD_CUDA_ALSO`. The capability is the one that candle's kernels are built for: `CUDA_COMPUTE_CAP`, or that of
//! the GPU in this machine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const KERNELS: &str = "src/device/cuda/kernels";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed={KERNELS}");
    for variable in ["CUDA_COMPUTE_CAP", "LUMPD_CUDA_ALSO", "CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "NVCC"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    if let Err(reason) = compile() {
        println!("cargo::error=the CUDA kernels were not compiled: {reason}");
    }
}

fn compile() -> Result<(), String> {
    let capability = capability()?;
    let also = env::var("LUMPD_CUDA_ALSO").unwrap_or_default();
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo names no OUT_DIR")?).join("lumpd.fatbin");
    let compiler = compiler();
    let mut command = Command::new(&compiler);
    command.args(["-fatbin", "-O3"]);
    command.arg(format!("-gencode=arch=compute_{capability},code=[sm_{capability},compute_{capability}]"));
    for other in also.split([',', ' ']).filter(|other| !other.is_empty() && *other != capability) {
        command.arg(format!("-gencode=arch=compute_{other},code=sm_{other}"));
    }
    let run = command.arg(Path::new(KERNELS).join("all.cu")).arg("-o").arg(&out).output();
    let run = run
        .map_err(|error| format!("{} does not run: {error}; set CUDA_HOME to the CUDA tool kit", compiler.display()))?;
    if run.status.success() && fs::metadata(&out).is_ok() {
        return Ok(());
    }
    // Each line as a message of its own: cargo shows no more than one.
    String::from_utf8_lossy(&run.stderr).lines().for_each(|line| println!("cargo::warning={line}"));
    Err(format!("{command:?} failed: {}", run.status))
}

/// nvcc: the one named, that of the tool kit named, or the one on the path.
fn compiler() -> PathBuf {
    if let Some(named) = env::var_os("NVCC") {
        return named.into();
    }
    let of_kit = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"].into_iter().filter_map(env::var_os);
    let found = of_kit.map(|kit| PathBuf::from(kit).join("bin/nvcc")).find(|path| path.exists());
    found.unwrap_or_else(|| "nvcc".into())
}

/// Such as `90`: what `CUDA_COMPUTE_CAP` says (`90` or `9.0`), else what the driver says of the first GPU.
fn capability() -> Result<String, String> {
    let told = match env::var("CUDA_COMPUTE_CAP") {
        Ok(told) => told,
        Err(_) => {
            let query = ["--query-gpu=compute_cap", "--format=csv,noheader"];
            let run = Command::new("nvidia-smi").args(query).output();
            let run = run.ok().filter(|run| run.status.success());
            let run = run.ok_or("this machine has no GPU to build for: set CUDA_COMPUTE_CAP, such as 80 or 90")?;
            String::from_utf8_lossy(&run.stdout).lines().next().unwrap_or_default().to_owned()
        }
    };
    let digits = told.trim().replace('.', "");
    let sound = (2..=3).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    if sound { Ok(digits) } else { Err(format!("CUDA_COMPUTE_CAP is \"{told}\", not such as 80 or 90")) }
}
