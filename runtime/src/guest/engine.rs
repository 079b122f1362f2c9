//! The engine's settings, said once: code that was compiled with them runs with them.

use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// Names the settings below in the code cache; to be changed with them.
pub const SETTINGS: &str = "wasmtime48-1";

/// What an engine is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To compile, in the fenced child; the only one that has a compiler.
    Compile,
    /// To run one command: memory is mapped when the guest is instantiated.
    Command,
    /// To answer requests, each by a fresh instance: memory comes from a pool.
    Service,
}

/// An engine for `purpose`.
///
/// # Errors
/// When the machine cannot run it (too little address space for the pool, say).
pub fn engine(purpose: Purpose) -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        // How a guest that computes without end is stopped, and how two of them share a thread.
        .epoch_interruption(true)
        .wasm_component_model_async(true)
        // CPython's C stack is deep; a fiber needs room for it and for the host call on top.
        .max_wasm_stack(1 << 20)
        .async_stack_size(2 << 20)
        .enable_compiler(purpose == Purpose::Compile);
    if purpose == Purpose::Service {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_core_instances(POOL * 16)
            .total_component_instances(POOL)
            .total_memories(POOL)
            .total_tables(POOL * 2)
            .total_stacks(POOL)
            .max_memory_size(4 << 30)
            .table_elements(100_000)
            .max_core_instance_size(4 << 20)
            .max_component_instance_size(4 << 20)
            .max_unused_warm_slots(16)
            .decommit_batch_size(1)
            // Only the pages that an instance has written are cleared for the next one (Linux 6.7 and later).
            .pagemap_scan(Enabled::Auto);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    Engine::new(&config)
}

/// How many instances of a service may be alive at once.
pub const POOL: u32 = 128;

/// The machine that code is compiled for, as far as cranelift looks at it. A stale answer does no harm: the engine
/// checks again when it maps the code.
#[must_use]
pub fn machine() -> String {
    format!("{}-{:x}", std::env::consts::ARCH, features())
}

#[cfg(target_arch = "x86_64")]
fn features() -> u32 {
    macro_rules! bits {
        ($($name:tt)*) => {{
            let mut all = 0u32;
            $( all = all << 1 | u32::from(std::is_x86_feature_detected!($name)); )*
            all
        }};
    }
    bits!("sse3" "ssse3" "sse4.1" "sse4.2" "popcnt" "avx" "avx2" "fma" "bmi1" "bmi2" "lzcnt" "cmpxchg16b"
          "avx512f" "avx512vl" "avx512dq" "avx512bitalg" "avx512vbmi")
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> u32 {
    0
}
