//! The machine of the tests: the kernels' own source, compiled by the C compiler and run on the CPU.
//!
//! Memory is filled with NaN at first and guarded at both ends; every launch is done twice, with blocks and threads in
//! one order and in the other, and must give the same bits: threads may not race.

use std::ffi::{CStr, CString, c_int, c_uint, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{DType, Device, Result, Storage, Tensor, bail};

use super::machine::*;

/// Bytes before and after every region that nobody may write.
const GUARD: usize = 64;

type Kernel = unsafe extern "C" fn(*const c_void);
type Emulate = unsafe extern "C" fn(Kernel, *const c_void, *const c_uint, c_uint, c_int) -> c_int;

/// The compiled kernels.
struct Library {
    handle: *mut c_void,
    emulate: Emulate,
}

// SAFETY: a handle of dlopen may be used from every thread; the code keeps its state in thread-local variables.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    fn compile() -> std::result::Result<Self, String> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/device/cuda/kernels");
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let object = folder.path().join("kernels.so");
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let flags = ["-O1", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-ffp-contract=off"];
        let run = Command::new(&compiler)
            .args(flags)
            .args(["-fPIC", "-shared", "-x", "c", "all.cu", "-lm", "-o"])
            .arg(&object)
            .current_dir(source)
            .output()
            .map_err(|error| format!("the C compiler {compiler:?} does not run: {error}"))?;
        if !run.status.success() {
            panic!("the kernels are no valid C:\n{}", String::from_utf8_lossy(&run.stderr));
        }
        let path = CString::new(object.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
        // SAFETY: the library has no initialisers; the folder may go once it is open.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        if handle.is_null() {
            return Err("the compiled kernels cannot be loaded".into());
        }
        // SAFETY: emulate.h defines the function with this signature.
        let emulate = unsafe { std::mem::transmute::<*mut c_void, Emulate>(symbol(handle, "emulate_launch")?) };
        Ok(Self { handle, emulate })
    }
}

fn symbol(handle: *mut c_void, name: &str) -> std::result::Result<*mut c_void, String> {
    let name = CString::new(name).map_err(|error| error.to_string())?;
    // SAFETY: `handle` is open and the name ends in 0.
    let found = unsafe { libc::dlsym(handle, CStr::as_ptr(&name)) };
    if found.is_null() { Err(format!("no symbol {name:?}")) } else { Ok(found) }
}

/// Memory whose guards are looked at when it goes.
struct Memory {
    words: Box<[u128]>,
    bytes: usize,
}

impl Drop for Memory {
    fn drop(&mut self) {
        let start = self.words.as_ptr().cast::<u8>();
        // SAFETY: all of the words are initialised bytes.
        let bytes = unsafe { std::slice::from_raw_parts(start, size_of_val(&*self.words)) };
        let mut guards = bytes[..GUARD].iter().chain(&bytes[GUARD + self.bytes..]);
        if !std::thread::panicking() {
            assert!(guards.all(|byte| *byte == 0xff), "a kernel wrote outside its memory");
        }
    }
}

/// The machine.
#[derive(Clone)]
pub struct Emulator {
    library: Arc<Library>,
    precision: Precision,
}

impl Emulator {
    /// A machine, or why there can be none here.
    pub fn new(precision: Precision) -> std::result::Result<Self, String> {
        static LIBRARY: OnceLock<std::result::Result<Arc<Library>, String>> = OnceLock::new();
        let library = LIBRARY.get_or_init(|| Library::compile().map(Arc::new)).clone()?;
        Ok(Self { library, precision })
    }

    /// Size of the argument of a kernel, as the C side has it.
    fn parameter_bytes(&self, kernel: &str) -> Result<usize> {
        let found = symbol(self.library.handle, &format!("{kernel}_size")).map_err(candle_core::Error::msg)?;
        // SAFETY: emulate.h defines it as a size_t.
        Ok(unsafe { *found.cast::<usize>() })
    }

    fn once(
        &self,
        kernel: &str,
        blocks: [u32; 3],
        shared_bytes: u32,
        parameters: &[u128],
        backwards: c_int,
    ) -> Result<()> {
        let found = symbol(self.library.handle, kernel).map_err(candle_core::Error::msg)?;
        // SAFETY: emulate.h defines every kernel with this signature.
        let function = unsafe { std::mem::transmute::<*mut c_void, Kernel>(found) };
        // SAFETY: whoever called `launch` vouches for the argument; its size was compared.
        let status = unsafe {
            (self.library.emulate)(function, parameters.as_ptr().cast(), blocks.as_ptr(), shared_bytes, backwards)
        };
        match status {
            0 => Ok(()),
            1 => bail!("{kernel}: a barrier that not all threads of the block reached"),
            2 => bail!("{kernel}: shared memory beyond the {shared_bytes} bytes of the launch"),
            other => bail!("{kernel}: status {other}"),
        }
    }

    fn memory(&self, bytes: usize, fill: impl FnOnce(&mut [u8])) -> Region {
        let mut words = vec![u128::MAX; (bytes + 2 * GUARD).div_ceil(16)].into_boxed_slice();
        // SAFETY: the words are initialised, and this is the only reference to them.
        let whole = unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), size_of_val(&*words)) };
        fill(&mut whole[GUARD..GUARD + bytes]);
        let address = whole.as_ptr() as u64 + GUARD as u64;
        let owner = Arc::new(Memory { words, bytes });
        // SAFETY: the words stay where they are as long as the owner lives.
        unsafe { Region::new(owner, address, bytes) }
    }
}

fn address(region: &Region) -> *mut u8 {
    region.at("a region", 0).map_or(std::ptr::null_mut(), |address| address as *mut u8)
}

fn content(region: &Region) -> Vec<u8> {
    // SAFETY: the region's owner lives, and one thread works on it at a time.
    unsafe { std::slice::from_raw_parts(address(region), region.bytes()) }.to_vec()
}

/// Writes only where something changes: what is lent is never written.
fn set(region: &Region, bytes: &[u8]) {
    if content(region)[..bytes.len()] != *bytes {
        // SAFETY: as in `content`; the region is at least as long, or the comparison had panicked.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address(region), bytes.len()) };
    }
}

/// One piece of work, to be done now or later.
enum Work {
    Launch { kernel: String, blocks: [u32; 3], shared_bytes: u32, parameters: Vec<u128>, regions: Vec<Region> },
    Convolve { plan: Plan, operands: [Region; 3] },
    Copy { from: Region, to: Region },
    Clear(Region),
}

impl Work {
    fn launch(emulator: &Emulator, launch: &Launch) -> Result<Self> {
        let expected = emulator.parameter_bytes(launch.kernel)?;
        if launch.parameters.len() != expected {
            bail!("{}: an argument of {} bytes, not {expected}", launch.kernel, launch.parameters.len());
        }
        let (words, rest) = launch.parameters.as_chunks::<16>();
        let mut parameters: Vec<u128> = words.iter().map(|word| u128::from_ne_bytes(*word)).collect();
        let mut last = [0; 16];
        last[..rest.len()].copy_from_slice(rest);
        parameters.push(u128::from_ne_bytes(last));
        Ok(Self::Launch {
            kernel: launch.kernel.to_owned(),
            blocks: launch.blocks,
            shared_bytes: launch.shared_bytes,
            parameters,
            regions: launch.regions.iter().map(|region| (*region).clone()).collect(),
        })
    }

    fn run(&self, emulator: &Emulator) -> Result<()> {
        match self {
            Self::Launch { kernel, blocks, shared_bytes, parameters, regions } => {
                let contents = || regions.iter().map(content).collect::<Vec<_>>();
                let before = contents();
                emulator.once(kernel, *blocks, *shared_bytes, parameters, 0)?;
                let after = contents();
                regions.iter().zip(&before).for_each(|(region, before)| set(region, before));
                emulator.once(kernel, *blocks, *shared_bytes, parameters, 1)?;
                if contents() != after {
                    bail!("{kernel}: the result depends on the order of threads");
                }
            }
            Self::Convolve { plan, operands } => {
                let [input, filter, output] = [0, 1, 2].map(|index| content(&operands[index]));
                let (place, computed) =
                    super::twins::convolve(&plan.shape, plan.precision, plan.pass, [&input, &filter, &output]);
                set(&operands[place], &computed);
            }
            Self::Copy { from, to } => set(to, &content(from)),
            Self::Clear(region) => set(region, &vec![0; region.bytes()]),
        }
        Ok(())
    }
}

/// Takes work down instead of doing it.
struct Recorder<'a> {
    emulator: &'a Emulator,
    tape: Mutex<Vec<Work>>,
}

struct Tape {
    emulator: Emulator,
    work: Vec<Work>,
}

impl Recording for Tape {
    fn replay(&self) -> Result<()> {
        self.work.iter().try_for_each(|work| work.run(&self.emulator))
    }
}

/// Both queues: what becomes of a piece of work.
trait Takes {
    fn emulator(&self) -> &Emulator;
    fn take(&self, work: Work) -> Result<()>;
}

impl Takes for Emulator {
    fn emulator(&self) -> &Emulator {
        self
    }

    fn take(&self, work: Work) -> Result<()> {
        work.run(self)
    }
}

impl Takes for Recorder<'_> {
    fn emulator(&self) -> &Emulator {
        self.emulator
    }

    fn take(&self, work: Work) -> Result<()> {
        self.tape.lock().unwrap_or_else(PoisonError::into_inner).push(work);
        Ok(())
    }
}

impl<T: Takes> Queue for T {
    unsafe fn launch(&self, launch: &Launch) -> Result<()> {
        self.take(Work::launch(self.emulator(), launch)?)
    }

    fn convolve(&self, plan: &Plan, operands: Operands) -> Result<()> {
        operands.check(plan)?;
        let operands = [operands.input, operands.filter, operands.output].map(Region::clone);
        self.take(Work::Convolve { plan: plan.clone(), operands })
    }

    fn copy(&self, from: &Region, to: &Region) -> Result<()> {
        to.at("the target of a copy", from.bytes())?;
        self.take(Work::Copy { from: from.clone(), to: to.clone() })
    }

    fn clear(&self, region: &Region) -> Result<()> {
        self.take(Work::Clear(region.clone()))
    }
}

impl Machine for Emulator {
    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn fastest(&self) -> Precision {
        self.precision
    }

    fn allocate(&self, bytes: usize) -> Result<Region> {
        Ok(self.memory(bytes, |_| {}))
    }

    fn upload(&self, bytes: &[u8]) -> Result<Region> {
        Ok(self.memory(bytes.len(), |memory| memory.copy_from_slice(bytes)))
    }

    fn download(&self, region: &Region) -> Result<Vec<u8>> {
        Ok(content(region))
    }

    fn lend(&self, tensor: &Tensor) -> Result<Region> {
        let (storage, layout) = tensor.storage_and_layout();
        match (&*storage, layout.contiguous_offsets(), tensor.dtype()) {
            (Storage::Cpu(values), Some((start, end)), DType::F32) => {
                let values = &values.as_slice::<f32>()?[start..end];
                // SAFETY: the clone of the tensor keeps the values alive; what is lent is only read.
                Ok(unsafe { Region::new(Arc::new(tensor.clone()), values.as_ptr() as u64, size_of_val(values)) })
            }
            _ => bail!("not a contiguous f32 tensor in main memory: {tensor:?}"),
        }
    }

    fn tensor(&self, region: &Region, shape: &[usize]) -> Result<Tensor> {
        let count = shape.iter().product::<usize>();
        region.at("a tensor", 4 * count)?;
        Tensor::from_vec(values_of(&content(region)[..4 * count]), shape, &Device::Cpu)
    }

    fn queue(&self) -> &dyn Queue {
        self
    }

    fn record(&self, work: &mut dyn FnMut(&dyn Queue) -> Result<()>) -> Result<Box<dyn Recording>> {
        let recorder = Recorder { emulator: self, tape: Mutex::default() };
        work(&recorder)?;
        let work = recorder.tape.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Box::new(Tape { emulator: self.clone(), work }))
    }

    fn records(&self) -> bool {
        true
    }

    fn plan(&self, shape: ConvolutionShape, precision: Precision, pass: Pass) -> Result<Plan> {
        // Some memory, so that a backend that forgets the workspace is found out.
        Ok(Plan { shape, precision, pass, workspace_bytes: 64, choice: Arc::new(()) })
    }
}
