//! The engine's settings, said once: code that was compiled with them runs with them.

use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// Names the settings below in the code cache; to be changed with them.
pub const SETTINGS: &str = "wasmtime48-2";

/// What code is compiled for: the settings that are compiled into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// Whatever a guest can be.
    General,
    /// A service of WASI 0.2 and nothing else: many instances that live for less than a millisecond each, and do without
    /// what concurrent calls into one of them take.
    Fresh,
}

/// What an engine is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// To compile, in the fenced child; the only one that has a compiler.
    Compile(Target),
    /// To run one command: memory is mapped when the guest is instantiated.
    Command,
    /// To answer requests by at most so many instances at a time, whose memory comes from a pool.
    Service(Target, u32),
}

/// An engine for `purpose`.
///
/// # Errors
/// When the machine cannot run it (too little address space for the pool, say).
pub fn engine(purpose: Purpose) -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    let (Purpose::Compile(target) | Purpose::Service(target, _)) = purpose else {
        return Engine::new(general(&mut config).enable_compiler(false));
    };
    match target {
        Target::General => general(&mut config),
        Target::Fresh => fresh(&mut config),
    };
    config.enable_compiler(matches!(purpose, Purpose::Compile(_)));
    if let Purpose::Service(_, instances) = purpose {
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(instances)));
    }
    Engine::new(&config)
}

fn general(config: &mut Config) -> &mut Config {
    config
        // How a guest that computes without end is stopped, and how two of them share a thread.
        .epoch_interruption(true)
        .wasm_component_model_async(true)
        // CPython's C stack is deep; a fiber needs room for it and for the host call on top.
        .max_wasm_stack(1 << 20)
        .async_stack_size(2 << 20)
}

fn fresh(config: &mut Config) -> &mut Config {
    general(config).wasm_component_model_async(false).concurrency_support(false)
}

fn pool(instances: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(instances * 16)
        .total_component_instances(instances)
        .total_memories(instances)
        .total_tables(instances * 2)
        .total_stacks(instances)
        .max_memory_size(4 << 30)
        .table_elements(100_000)
        .max_core_instance_size(4 << 20)
        .max_component_instance_size(4 << 20)
        .max_unused_warm_slots(16)
        .decommit_batch_size(1)
        // Only the pages that an instance has written are cleared for the next one (Linux 6.7 and later), and up to so
        // many bytes of them are kept: asking the system for a page costs several times what clearing it does.
        .linear_memory_keep_resident(KEPT)
        .table_keep_resident(64 << 10)
        .pagemap_scan(Enabled::Auto);
    pool
}

/// How much of an instance's memory is kept for the next one.
const KEPT: usize = 512 << 10;

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
