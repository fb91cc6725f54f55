//! Code: libraries (context-independent), modules (in a context), kernels and functions in them, and global variables.
//!
//! Everything keeps its recipe, the [`Source`] it came from, so that a live twin can be made at any time. Images are
//! unpacked and read at the first look-up, not at load: cudart 11.7 loads hundreds of fat binaries at start.
use crate::handle::{self, Kind};
use crate::link::Setting;
use crate::objects::{compute_capability, device};
use crate::runtime::{backend, Map, State};
use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use zerogpu_abi::*;
use zerogpu_image::occupancy::Config as Occupancy;
use zerogpu_image::{Image, Kernel, Source};

/// Whether the app was ever told the address of a module variable. Until then none can be among its parameters.
pub static ADDRESSES_TOLD: AtomicBool = AtomicBool::new(false);

/// All code objects.
#[derive(Default)]
pub struct Modules {
    /// Modules.
    pub modules: Map<Module>,
    /// Libraries.
    pub libraries: Map<Library>,
    /// Functions, of modules.
    pub functions: Map<Function>,
    /// Kernels, of libraries.
    pub kernels: Map<LibraryKernel>,
    /// Unloaded by the app while recorded work may still name them.
    late: Vec<Late>,
    /// Handles of those, and of the functions and kernels in them: the app has no more use of them.
    unloaded: HashSet<usize>,
}

enum Late {
    Module(CUmodule),
    Library(CUlibrary),
}

/// Code loaded into a context.
pub struct Module {
    /// The context.
    pub ctx: CUcontext,
    /// Recipe.
    pub source: Arc<Source>,
    /// What the compiler is to be told of it.
    pub settings: Arc<[Setting]>,
    /// The library it belongs to, if any.
    pub library: Option<CUlibrary>,
    image: Option<Arc<Image>>,
    functions: HashMap<Arc<str>, usize>,
    /// Variables that have an address: name, address, bytes.
    pub globals: HashMap<Arc<str>, (u64, u64)>,
    /// Words of variables into which the loader writes addresses, as they stand on the host without the program's doing;
    /// None: the program's own.
    pub linked: HashMap<Arc<str>, Vec<Option<u64>>>,
}

impl Module {
    /// Has its code from a copy, if there is one, and nothing more from where it was.
    fn detach(&mut self, copy: Option<Arc<Source>>) {
        if let Some(copy) = copy {
            (self.source, self.image) = (copy, None);
        }
    }
}

/// A copy of code that is in the program's own memory, which may be gone once the program has unloaded it.
fn detached(source: &Source) -> Option<Arc<Source>> {
    if !source.is_preserved() {
        return None;
    }
    // what is damaged was refused when it was loaded
    source.detached(compute_capability().ok()?).ok().map(Arc::new)
}

/// Code loaded into no context.
pub struct Library {
    /// Recipe.
    pub source: Arc<Source>,
    settings: Arc<[Setting]>,
    image: Option<Arc<Image>>,
    /// Its module in each context.
    pub modules: HashMap<CUcontext, CUmodule>,
    kernels: HashMap<Arc<str>, usize>,
}

/// A kernel of a library.
pub struct LibraryKernel {
    /// The library.
    pub library: CUlibrary,
    /// What its image says, and what the app set.
    pub function: Function,
    /// Its functions, by context.
    pub functions: HashMap<CUcontext, CUfunction>,
}

/// A kernel as the app may launch it.
#[derive(Clone)]
pub struct Function {
    /// The module; NULL for a kernel of a library.
    pub module: CUmodule,
    /// What the image says.
    pub kernel: Arc<Kernel>,
    /// Dynamic shared memory that a launch may ask for, bytes (attribute 8).
    pub max_dynamic_shared: u32,
    /// Attributes that the app set: number and value.
    pub set: Vec<(u32, i32)>,
    /// CUfunc_cache that the app prefers; 0: none.
    pub cache: u32,
    /// The name, NUL-terminated, for those who ask.
    pub name: Arc<CString>,
}

impl Function {
    fn new(module: CUmodule, kernel: &Kernel) -> Self {
        let name = CString::new(kernel.name.as_bytes()).unwrap_or_default();
        let kernel = Arc::new(kernel.clone());
        let (max_dynamic_shared, name) = (kernel.max_dynamic_shared(), Arc::new(name));
        Self { module, max_dynamic_shared, kernel, set: Vec::new(), cache: 0, name }
    }

    /// What the app set that counts for occupancy.
    pub fn occupancy(&self) -> Occupancy {
        let carveout = self.set.iter().find(|(n, _)| *n == CARVEOUT).map_or(-1, |&(_, v)| v);
        Occupancy { max_dynamic_shared: self.max_dynamic_shared, carveout }
    }

    /// `cuFuncGetAttribute`.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such attribute; those of [`device`].
    pub fn attribute(&self, n: u32) -> Res<i32> {
        match self.set.iter().find(|(set, _)| *set == n) {
            Some(&(_, v)) => Ok(v),
            None => self.kernel.attribute(n, &device()?).ok_or(CUresult::INVALID_VALUE),
        }
    }

    /// `cuFuncSetAttribute`: the attributes that cuda.h lets an app set. Whether it had another value before.
    ///
    /// # Errors
    /// INVALID_VALUE: the attribute is none of those, or can't have the value; those of [`device`].
    pub fn set_attribute(&mut self, n: u32, value: i32) -> Res<bool> {
        let good = match n {
            MAX_DYNAMIC_SHARED => {
                let room = device()?.shared_per_block_optin.saturating_sub(self.kernel.shared_static);
                let good = (0..=room as i32).contains(&value);
                if good {
                    self.max_dynamic_shared = value as u32;
                }
                good
            }
            CARVEOUT => (-1..=100).contains(&value),
            11..=13 => value >= 0,
            14 => value == 0 || value == 1,
            15 => (0..=2).contains(&value),
            _ => false,
        };
        if !good {
            return Err(CUresult::INVALID_VALUE);
        }
        if self.set.contains(&(n, value)) {
            return Ok(false);
        }
        self.set.retain(|(set, _)| *set != n);
        self.set.push((n, value));
        Ok(true)
    }
}

const MAX_DYNAMIC_SHARED: u32 = 8;
const CARVEOUT: u32 = 9;

fn image(source: &Source) -> Res<Arc<Image>> {
    source.image_for(compute_capability()?).map(Arc::new).map_err(|e| e.code())
}

impl Modules {
    /// What a launch of this handle (a function or a kernel) runs.
    pub fn launchable(&self, handle: usize) -> Option<&Function> {
        self.recorded(handle).filter(|_| !self.unloaded.contains(&handle))
    }

    /// The same, for work that was recorded before the app unloaded it.
    pub fn recorded(&self, handle: usize) -> Option<&Function> {
        self.functions.get(&handle).or_else(|| self.kernels.get(&handle).map(|k| &k.function))
    }
}

impl State {
    /// Whether code fits the card.
    ///
    /// # Errors
    /// NO_BINARY_FOR_GPU: it has no image for the card; INVALID_PTX: it is PTX for no architecture, or for one that
    /// does not suit; INVALID_IMAGE: it is damaged; those of [`compute_capability`].
    pub fn fits(source: &Source) -> Res {
        source.check(compute_capability()?).map_err(|e| e.code())
    }

    /// Loads a module into the current context. `settings`: what the compiler is told, each time it is loaded.
    ///
    /// # Errors
    /// Those of [`State::fits`] and [`State::current`]; OUT_OF_MEMORY: no handle can be had.
    pub fn load_module(&mut self, source: Source, settings: Vec<Setting>) -> Res<CUmodule> {
        Self::fits(&source)?;
        let ctx = self.current()?;
        self.insert_module(ctx, (Arc::new(source), settings.into()), None, None)
    }

    fn insert_module(
        &mut self,
        ctx: CUcontext,
        (source, settings): (Arc<Source>, Arc<[Setting]>),
        library: Option<CUlibrary>,
        image: Option<Arc<Image>>,
    ) -> Res<CUmodule> {
        let h = self.handle(Kind::Module)?;
        let (functions, globals, linked) = (HashMap::new(), HashMap::new(), HashMap::new());
        let module = Module { ctx, source, settings, library, image, functions, globals, linked };
        self.modules.modules.insert(h, module);
        Ok(CUmodule(h))
    }

    /// Ends a module that the app loaded. One of a library ends with the library.
    ///
    /// # Errors
    /// INVALID_HANDLE: it is no module, neither alive nor ended.
    pub fn unload_module(&mut self, module: CUmodule) -> Res {
        match self.modules.modules.get(&module.0) {
            Some(Module { library: None, .. }) if !self.modules.unloaded.contains(&module.0) => {}
            Some(_) => return Ok(()),
            // recorded: a second unload of the same module succeeds on a driver
            None if handle::has_been_module(module.0) => return Ok(()),
            None => return Err(CUresult::INVALID_HANDLE),
        }
        if backend()?.defers() {
            if let Some(m) = self.modules.modules.get_mut(&module.0) {
                m.detach(detached(&m.source));
            }
            self.modules.late.push(Late::Module(module));
            self.hide_module(module);
            return Ok(());
        }
        self.drop_module(module)
    }

    fn hide_module(&mut self, module: CUmodule) {
        let functions = self.modules.modules.get(&module.0).into_iter().flat_map(|m| m.functions.values());
        self.modules.unloaded.extend(functions.chain([&module.0]));
    }

    /// Ends what the app unloaded while recorded work could name it.
    pub fn end_late_modules(&mut self) {
        self.modules.unloaded.clear();
        for late in std::mem::take(&mut self.modules.late) {
            // both are in their tables, so there is nothing to refuse
            let _ended = match late {
                Late::Module(m) => self.drop_module(m),
                Late::Library(l) => self.drop_library(l),
            };
        }
    }

    fn drop_module(&mut self, module: CUmodule) -> Res {
        let Some(m) = self.modules.modules.remove(&module.0) else { return Ok(()) };
        for f in m.functions.into_values() {
            self.modules.functions.remove(&f);
            self.end(Kind::Function, f);
        }
        self.end(Kind::Module, module.0);
        handle::set_has_been_module(module.0);
        for (at, _) in m.globals.into_values() {
            self.free(at)?;
        }
        Ok(())
    }

    /// Ends all code of a context.
    pub(crate) fn end_modules_of(&mut self, ctx: CUcontext) {
        let of: Vec<usize> = self.modules.modules.iter().filter(|(_, m)| m.ctx == ctx).map(|(&h, _)| h).collect();
        for h in of {
            // nothing to refuse: the module is in the table
            let _ = self.drop_module(CUmodule(h));
        }
        for lib in self.modules.libraries.values_mut() {
            lib.modules.remove(&ctx);
        }
        for (&h, k) in &mut self.modules.kernels {
            if k.functions.remove(&ctx).is_some() {
                // a kernel's live twin is its function's, which has just ended
                handle::void_twin(h);
            }
        }
    }

    /// Fails for what the app has unloaded.
    fn loaded(&self, h: usize) -> Res {
        if self.modules.unloaded.contains(&h) {
            Err(CUresult::INVALID_HANDLE)
        } else {
            Ok(())
        }
    }

    /// A module, if the app has not unloaded it.
    ///
    /// # Errors
    /// INVALID_HANDLE: there is none, or the app has unloaded it.
    pub fn module(&mut self, module: CUmodule) -> Res<&mut Module> {
        self.loaded(module.0)?;
        self.recorded_module(module)
    }

    /// The same, for work that was recorded before the app unloaded it.
    fn recorded_module(&mut self, module: CUmodule) -> Res<&mut Module> {
        self.modules.modules.get_mut(&module.0).ok_or(CUresult::INVALID_HANDLE)
    }

    /// The image of a module, unpacked at the first call; also of one that only recorded work still names.
    ///
    /// # Errors
    /// INVALID_HANDLE: there is no such module; else as for [`State::library_image`].
    pub fn module_image(&mut self, module: CUmodule) -> Res<Arc<Image>> {
        let m = self.recorded_module(module)?;
        if let Some(i) = &m.image {
            return Ok(i.clone());
        }
        let i = match m.library {
            Some(lib) => self.library_image(lib)?,
            None => image(&m.source)?,
        };
        self.recorded_module(module)?.image = Some(i.clone());
        Ok(i)
    }

    /// The function of that name.
    ///
    /// # Errors
    /// Those of [`State::module`] and [`State::module_image`]; NOT_FOUND: the image has none; OUT_OF_MEMORY: no handle
    /// can be had.
    pub fn function(&mut self, module: CUmodule, name: &str) -> Res<CUfunction> {
        if let Some(&f) = self.module(module)?.functions.get(name) {
            return Ok(CUfunction(f));
        }
        let image = self.module_image(module)?;
        let kernel = image.kernel(name).ok_or(CUresult::NOT_FOUND)?;
        let mut function = Function::new(module, kernel);
        if let Some(lib) = self.module(module)?.library {
            self.inherit(lib, name, &mut function);
        }
        let h = self.handle(Kind::Function)?;
        self.modules.functions.insert(h, function);
        self.module(module)?.functions.insert(kernel.name.clone(), h);
        Ok(CUfunction(h))
    }

    /// A function of a library starts with what the app set on its kernel.
    fn inherit(&mut self, library: CUlibrary, name: &str, function: &mut Function) {
        let kernel = self.modules.libraries.get(&library.0).and_then(|l| l.kernels.get(name));
        if let Some(k) = kernel.and_then(|k| self.modules.kernels.get(k)) {
            function.max_dynamic_shared = k.function.max_dynamic_shared;
            function.set.clone_from(&k.function.set);
            function.cache = k.function.cache;
        }
    }

    /// A global variable's address and bytes; also of a module that only recorded work still names.
    ///
    /// # Errors
    /// Those of [`State::module_image`]; NOT_FOUND: the image has none; those of
    /// [`Memory::alloc_global`](crate::memory::Memory::alloc_global).
    pub fn global(&mut self, module: CUmodule, name: &str) -> Res<(u64, u64)> {
        if let Some(&g) = self.recorded_module(module)?.globals.get(name) {
            return Ok(g);
        }
        let image = self.module_image(module)?;
        let global = image.global(name).ok_or(CUresult::NOT_FOUND)?;
        let ctx = self.recorded_module(module)?.ctx;
        let size = global.size.max(1);
        let device = self.device_of(ctx)?;
        let at = self.memory.alloc_global(device, size, ctx)?;
        let first = image.initial(global);
        let host = self.memory.segments(at, size)?[0].host;
        // SAFETY: `host` is the backing of the `size` bytes just allocated, and first contents are no longer than that.
        unsafe { std::ptr::copy_nonoverlapping(first.as_ptr(), host as *mut u8, first.len().min(size as usize)) };
        self.recorded_module(module)?.globals.insert(global.name.clone(), (at, global.size));
        Ok((at, global.size))
    }

    /// Loads a library. Whether it fits is asked when a module is wanted (driver 580: real libraries are
    /// context-independent).
    ///
    /// # Errors
    /// OUT_OF_MEMORY: no handle can be had.
    pub fn load_library(&mut self, source: Source, settings: Vec<Setting>) -> Res<CUlibrary> {
        let h = self.handle(Kind::Library)?;
        let (modules, kernels) = (HashMap::new(), HashMap::new());
        let (source, settings) = (Arc::new(source), settings.into());
        self.modules.libraries.insert(h, Library { source, settings, image: None, modules, kernels });
        Ok(CUlibrary(h))
    }

    /// The library of a handle.
    ///
    /// # Errors
    /// INVALID_HANDLE: there is none, or the app has unloaded it.
    pub fn library(&mut self, library: CUlibrary) -> Res<&mut Library> {
        self.loaded(library.0)?;
        self.modules.libraries.get_mut(&library.0).ok_or(CUresult::INVALID_HANDLE)
    }

    /// Ends a library with its modules, functions and kernels.
    ///
    /// # Errors
    /// As for [`State::library`].
    pub fn unload_library(&mut self, library: CUlibrary) -> Res {
        self.library(library)?;
        if backend()?.defers() {
            self.modules.late.push(Late::Library(library));
            let l = self.library(library)?;
            let copy = detached(&l.source);
            if let Some(copy) = &copy {
                (l.source, l.image) = (copy.clone(), None);
            }
            let (modules, kernels): (Vec<_>, Vec<_>) =
                (l.modules.values().copied().collect(), l.kernels.values().copied().collect());
            for module in modules {
                if let Some(m) = self.modules.modules.get_mut(&module.0) {
                    m.detach(copy.clone());
                }
                self.hide_module(module);
            }
            self.modules.unloaded.extend(kernels.into_iter().chain([library.0]));
            return Ok(());
        }
        self.drop_library(library)
    }

    fn drop_library(&mut self, library: CUlibrary) -> Res {
        let l = self.modules.libraries.remove(&library.0).ok_or(CUresult::INVALID_HANDLE)?;
        for m in l.modules.into_values() {
            self.drop_module(m)?;
        }
        for k in l.kernels.into_values() {
            self.modules.kernels.remove(&k);
            self.end(Kind::Kernel, k);
        }
        self.end(Kind::Library, library.0);
        Ok(())
    }

    /// The image of a library, unpacked at the first call.
    ///
    /// # Errors
    /// INVALID_HANDLE: there is no such library; those of [`State::fits`]; INVALID_IMAGE or INVALID_PTX: what is
    /// unpacked is damaged.
    pub fn library_image(&mut self, library: CUlibrary) -> Res<Arc<Image>> {
        let l = self.modules.libraries.get_mut(&library.0).ok_or(CUresult::INVALID_HANDLE)?;
        match &l.image {
            Some(i) => Ok(i.clone()),
            None => {
                let i = image(&l.source)?;
                l.image = Some(i.clone());
                Ok(i)
            }
        }
    }

    /// The library's module in the current context; the same at each call.
    ///
    /// # Errors
    /// Those of [`State::current`], [`State::library`] and [`State::fits`]; OUT_OF_MEMORY: no handle can be had.
    pub fn library_module(&mut self, library: CUlibrary) -> Res<CUmodule> {
        let ctx = self.current()?;
        let l = self.library(library)?;
        if let Some(&m) = l.modules.get(&ctx) {
            return Ok(m);
        }
        let recipe = (l.source.clone(), l.settings.clone());
        Self::fits(&recipe.0)?;
        let image = l.image.clone();
        let m = self.insert_module(ctx, recipe, Some(library), image)?;
        self.library(library)?.modules.insert(ctx, m);
        Ok(m)
    }

    /// The kernel of that name in a library.
    ///
    /// # Errors
    /// Those of [`State::library`] and [`State::library_image`]; NOT_FOUND: the image has none; OUT_OF_MEMORY: no
    /// handle can be had.
    pub fn library_kernel(&mut self, library: CUlibrary, name: &str) -> Res<CUkernel> {
        if let Some(&k) = self.library(library)?.kernels.get(name) {
            return Ok(CUkernel(k));
        }
        let image = self.library_image(library)?;
        let kernel = image.kernel(name).ok_or(CUresult::NOT_FOUND)?;
        let function = Function::new(CUmodule::NULL, kernel);
        let h = self.handle(Kind::Kernel)?;
        self.modules.kernels.insert(h, LibraryKernel { library, function, functions: HashMap::new() });
        self.library(library)?.kernels.insert(kernel.name.clone(), h);
        Ok(CUkernel(h))
    }

    /// The kernel of a handle.
    ///
    /// # Errors
    /// INVALID_HANDLE: there is none, or the app has unloaded its library.
    pub fn kernel(&mut self, kernel: CUkernel) -> Res<&mut LibraryKernel> {
        self.loaded(kernel.0)?;
        self.modules.kernels.get_mut(&kernel.0).ok_or(CUresult::INVALID_HANDLE)
    }

    /// The function of a kernel in the current context.
    ///
    /// # Errors
    /// Those of [`State::current`] and [`State::kernel`]; at the first call in a context also those of
    /// [`State::library_module`] and [`State::function`].
    pub fn kernel_function(&mut self, kernel: CUkernel) -> Res<CUfunction> {
        let ctx = self.current()?;
        let k = self.kernel(kernel)?;
        if let Some(&f) = k.functions.get(&ctx) {
            return Ok(f);
        }
        let (library, name) = (k.library, k.function.kernel.name.clone());
        let module = self.library_module(library)?;
        let f = self.function(module, &name)?;
        self.kernel(kernel)?.functions.insert(ctx, f);
        Ok(f)
    }

    /// The function of a handle: a function's own, or a kernel's.
    ///
    /// # Errors
    /// INVALID_HANDLE: there is none, or the app has unloaded it.
    pub fn any_function(&mut self, handle: usize) -> Res<&mut Function> {
        self.loaded(handle)?;
        let m = &mut self.modules;
        match m.functions.get_mut(&handle) {
            Some(f) => Ok(f),
            None => m.kernels.get_mut(&handle).map(|k| &mut k.function).ok_or(CUresult::INVALID_HANDLE),
        }
    }

    /// Sets an attribute of a function, or of a kernel and its functions. The live twins are looked up again at their next
    /// use, which gives them the attribute.
    ///
    /// # Errors
    /// Those of [`State::any_function`] and [`Function::set_attribute`].
    pub fn set_function_attribute(&mut self, h: usize, attribute: u32, value: i32) -> Res {
        self.set_function(h, |f| f.set_attribute(attribute, value))
    }

    /// The same for the cache that it prefers: one of the four of CUfunc_cache.
    ///
    /// # Errors
    /// Those of [`State::any_function`]; INVALID_VALUE: it is none of the four.
    pub fn set_function_cache(&mut self, h: usize, config: u32) -> Res {
        self.set_function(h, |f| {
            if config > 3 {
                return Err(CUresult::INVALID_VALUE);
            }
            Ok(std::mem::replace(&mut f.cache, config) != config)
        })
    }

    /// `set` says whether it changed anything: programs set the same before each launch, which must cost no look-up.
    fn set_function(&mut self, h: usize, set: impl Fn(&mut Function) -> Res<bool>) -> Res {
        let of_kernel = if self.modules.kernels.contains_key(&h) { self.family(h) } else { Vec::new() };
        for f in std::iter::once(h).chain(of_kernel.into_iter().filter(|&f| f != h)) {
            if set(self.any_function(f)?)? {
                // a kernel and its functions have one real function: who does not look it up anew has what another set
                self.family(h).into_iter().for_each(handle::void_twin);
            }
        }
        Ok(())
    }

    /// A function or a kernel, and what is the same code: the kernel of its library, and that kernel's functions in all
    /// contexts, also those that were looked up in the library's module.
    fn family(&self, h: usize) -> Vec<usize> {
        let m = &self.modules;
        let library = |f: &Function| m.modules.get(&f.module.0).and_then(|module| module.library);
        let of = match (m.kernels.get(&h), m.functions.get(&h)) {
            (Some(k), _) => Some((k.library, &k.function.kernel.name)),
            (None, Some(f)) => library(f).map(|library| (library, &f.kernel.name)),
            (None, None) => None,
        };
        let Some((library, name)) = of.and_then(|(l, name)| Some((m.libraries.get(&l.0)?, name))) else {
            return vec![h];
        };
        let modules = library.modules.values().filter_map(|module| m.modules.get(&module.0));
        let functions = modules.filter_map(|module| module.functions.get(name));
        library.kernels.get(name).into_iter().chain(functions).copied().collect()
    }

    /// Tells the human once that attributes of PTX kernels are guesses.
    pub fn note_estimates(&self, f: &Function) {
        static TOLD: std::sync::Once = std::sync::Once::new();
        if f.kernel.estimated {
            TOLD.call_once(|| {
                if let Ok(b) = backend() {
                    b.tell(&format!(
                        "attributes of kernel {} are estimates: its image exists only as PTX, which a real driver compiles",
                        f.kernel.name
                    ));
                }
            });
        }
    }

    /// Packs the parameters of a launch as its kernel lays them out.
    ///
    /// # Errors
    /// Those of [`State::any_function`] and [`pack`](crate::api::pack).
    pub fn pack_params(&mut self, func: usize, params: &crate::op::Params) -> Res<Vec<u8>> {
        let kernel = self.any_function(func)?.kernel.clone();
        crate::api::pack(&kernel, params)
    }
}
