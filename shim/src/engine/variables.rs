//! Module variables: the one thing whose real address differs from ours.
//!
//! Their contents are put in when the module is loaded and brought home at the park. Into some the loader writes addresses
//! (`__device__ int *p = &x`): of those, the words that the program never changed are the loader's at each claim, and on
//! the host they read as our addresses.
use super::live::{aside, LiveGlobal};
use super::{locked, Engine};
use std::ffi::CString;
use std::sync::Arc;
use zerogpu_abi::*;
use zerogpu_below::{ok, Driver};
use zerogpu_device::runtime::State;

/// A variable of a real module.
struct Variable {
    name: Arc<str>,
    relocated: bool,
    /// Our address, the driver's, and bytes.
    ours: u64,
    real: u64,
    size: u64,
    host: usize,
}

impl Variable {
    /// The variable of that name, with an address of ours; None: the driver's loader has left it out.
    fn find(d: &Driver, st: &mut State, module: CUmodule, real: CUmodule, name: &Arc<str>) -> Res<Option<Self>> {
        let Ok(text) = CString::new(name.as_bytes()) else { return Ok(None) };
        let (mut address, mut bytes) = (0, 0);
        // SAFETY: a live module and a NUL-terminated name.
        match unsafe { (d.cuModuleGetGlobal_v2)(&mut address, &mut bytes, real, text.as_ptr()) } {
            CUresult::NOT_FOUND => return Ok(None),
            answer => ok(answer)?,
        }
        let relocated = st.module_image(module)?.global(name).is_some_and(|g| g.relocated);
        let (ours, size) = st.global(module, name)?;
        let (host, size) = (st.memory.arena_host(ours)?, size.min(bytes as u64));
        Ok(Some(Self { name: name.clone(), relocated, ours, real: address, size, host }))
    }

    /// The bytes on the host.
    fn bytes(&self) -> &[u8] {
        // SAFETY: the backing holds `size` bytes of the variable. Nobody writes them: copies on the host that were under way have
        // ended before the claim brings anything in (`exec::settle`), and while claimed none begins.
        unsafe { std::slice::from_raw_parts(self.host as *const u8, self.size as usize) }
    }

    /// Puts bytes in their place.
    fn set(&mut self, bytes: &[u8]) {
        // SAFETY: as for `bytes`; nobody else has a reference, since this one is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.host as *mut u8, self.size as usize) }.copy_from_slice(bytes);
    }
}

impl Engine {
    /// Gives the variables of a module that was just loaded the contents that they had. What the app never asked for and
    /// no claim brought home has its first contents from the loader. Where that fails none of them has an address.
    pub(super) fn restore_variables(&self, d: &Driver, st: &mut State, module: CUmodule, real: CUmodule) -> Res {
        self.restore(d, st, module, real).inspect_err(|_| locked(&self.live).forget_variables(module))
    }

    fn restore(&self, d: &Driver, st: &mut State, module: CUmodule, real: CUmodule) -> Res {
        let asked = &st.modules.modules.get(&module.0).ok_or(CUresult::INVALID_HANDLE)?.globals;
        let mut names: Vec<Arc<str>> = asked.keys().cloned().collect();
        let image = st.module_image(module)?;
        let linked = image.globals().iter().filter(|g| g.relocated && !names.contains(&g.name));
        names.extend(linked.map(|g| g.name.clone()).collect::<Vec<_>>());
        let mut found = Vec::new();
        for name in names {
            let Some(v) = Variable::find(d, st, module, real, &name)? else { continue };
            let global = LiveGlobal { size: v.size, real: v.real, module, loaded: Vec::new() };
            locked(&self.live).globals.insert(v.ours, global);
            found.push(v);
        }
        if found.is_empty() {
            return Ok(());
        }
        // not on the legacy stream: it waits for the app's work, and the state's lock is held
        let mut first: Vec<Vec<u8>> =
            found.iter().map(|v| vec![0; if v.relocated { v.size as usize } else { 0 }]).collect();
        aside(d, |s| {
            let mut links = found.iter().zip(&mut first).filter(|(v, _)| v.relocated);
            links.try_for_each(|(v, to)| {
                // SAFETY: a live variable, and room for its bytes until the stream is done.
                ok(unsafe { (d.cuMemcpyDtoHAsync_v2)(to.as_mut_ptr().cast(), v.real, to.len(), s) })
            })
        })?;
        for (v, bytes) in found.iter().zip(&mut first) {
            match v.relocated {
                true => self.link(st, module, v, bytes)?,
                false => *bytes = v.bytes().to_vec(),
            }
        }
        aside(d, |s| {
            let mut all = found.iter().zip(&first);
            all.try_for_each(|(v, from)| {
                // SAFETY: as above.
                ok(unsafe { (d.cuMemcpyHtoDAsync_v2)(v.real, from.as_ptr().cast(), from.len(), s) })
            })
        })
    }

    /// Puts the program's own words in place of the loader's, with the driver's addresses for ours.
    fn link(&self, st: &mut State, module: CUmodule, v: &Variable, loaded: &mut [u8]) -> Res {
        let image = st.module_image(module)?;
        let initial = image.global(&v.name).map_or(&[][..], |g| image.initial(g));
        let m = st.modules.modules.get_mut(&module.0).ok_or(CUresult::INVALID_HANDLE)?;
        let mut all = initial.to_vec();
        all.resize(v.size as usize, 0);
        let rest = m.linked.entry(v.name.clone()).or_insert_with(|| all.chunks(8).map(word).map(Some).collect());
        let mut live = locked(&self.live);
        for ((own, untouched), to) in v.bytes().chunks(8).map(word).zip(rest).zip(loaded.chunks_mut(8)) {
            if *untouched != Some(own) {
                *untouched = None;
                put(to, live.real_of(own, 1).unwrap_or(own));
            }
        }
        if let Some(global) = live.globals.get_mut(&v.ours) {
            global.loaded = loaded.chunks(8).map(word).collect();
        }
        Ok(())
    }

    /// Brings home the variables of every module that was live, also those that nobody asked for: kernels change them. Managed
    /// ones too: below us they are the context's, and go with it.
    pub(super) fn save_variables(&self, d: &Driver, st: &mut State) -> Res {
        let modules = locked(&self.live).modules.clone();
        let mut found = Vec::new();
        for (ours, real) in modules {
            if !st.modules.modules.contains_key(&ours.0) {
                continue;
            }
            let image = st.module_image(ours)?;
            for global in image.globals() {
                // a driver that can't say where it is now is asked again at the next try: bytes are not left behind
                found.extend(Variable::find(d, st, ours, real, &global.name)?.map(|v| (ours, v)));
            }
        }
        let mut contents = Vec::with_capacity(found.len());
        for (module, v) in &found {
            let mut bytes = vec![0; v.size as usize];
            // SAFETY: a live variable, and room for its bytes.
            ok(unsafe { (d.cuMemcpyDtoH_v2)(bytes.as_mut_ptr().cast(), v.real, bytes.len()) })?;
            if v.relocated {
                self.unlink(st, *module, v, &mut bytes, &found);
            }
            contents.push(bytes);
        }
        found.iter_mut().zip(&contents).for_each(|((_, v), bytes)| v.set(bytes));
        Ok(())
    }

    /// Puts our addresses of variables in place of the driver's, and notes which words the program has changed.
    fn unlink(&self, st: &mut State, module: CUmodule, v: &Variable, bytes: &mut [u8], all: &[(CUmodule, Variable)]) {
        let live = locked(&self.live);
        let loaded = live.globals.get(&v.ours).map_or(&[][..], |g| &g.loaded);
        let Some(m) = st.modules.modules.get_mut(&module.0) else { return };
        let Some(rest) = m.linked.get_mut(&v.name) else { return };
        for ((to, loaded), untouched) in bytes.chunks_mut(8).zip(loaded).zip(rest) {
            let now = word(to);
            let target = all.iter().find(|(_, t)| now.wrapping_sub(t.real) < t.size);
            let home = target.map_or(now, |(_, t)| t.ours + (now - t.real));
            *untouched = untouched.filter(|_| now == *loaded).map(|_| home);
            put(to, home);
        }
    }
}

/// Up to eight bytes as a word.
fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, &byte| word << 8 | byte as u64)
}

/// A word as up to eight bytes.
fn put(to: &mut [u8], word: u64) {
    to.iter_mut().zip(word.to_le_bytes()).for_each(|(to, byte)| *to = byte);
}
