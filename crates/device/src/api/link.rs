//! Linking at run time (see `crate::link`).
use super::*;
use crate::handle::Kind;
use crate::link::{check, Input, Link, Setting};
use crate::runtime::{backend, lock, State};
use std::ffi::{c_char, c_void, CStr};
use std::sync::Arc;
use zerogpu_abi::*;

unsafe fn settings(n: u32, options: *const u32, values: *const *mut c_void) -> Res<Vec<Setting>> {
    let (options, values) = (array(options, n as usize)?, array(values, n as usize)?);
    Ok(options.iter().zip(values).map(|(&option, &value)| (option, value as usize)).collect())
}

impl State {
    fn link(&mut self, state: CUlinkState) -> Res<&mut Link> {
        self.links.get_mut(&state.0).ok_or(CUresult::INVALID_HANDLE)
    }

    /// A link that can still be added to. That NVIDIA's driver refuses it afterwards too is assumed.
    fn open_link(&mut self, state: CUlinkState) -> Res<&mut Link> {
        let link = self.link(state)?;
        if link.output.is_some() {
            return Err(CUresult::INVALID_VALUE);
        }
        Ok(link)
    }
}

pub unsafe fn cuLinkCreate_v2(
    numOptions: u32,
    options: *mut u32,
    optionValues: *mut *mut c_void,
    stateOut: *mut CUlinkState,
) -> CUresult {
    answer(|| {
        wanted(stateOut)?;
        let settings = settings(numOptions, options, optionValues)?;
        check(&settings)?;
        let mut st = lock()?;
        st.current()?;
        let h = st.handle(Kind::Link)?;
        st.links.insert(h, Link::new(settings, optionValues as usize));
        out(stateOut, CUlinkState(h))
    })
}

pub unsafe fn cuLinkCreate(
    numOptions: u32,
    options: *mut u32,
    optionValues: *mut *mut c_void,
    stateOut: *mut CUlinkState,
) -> CUresult {
    cuLinkCreate_v2(numOptions, options, optionValues, stateOut)
}

#[allow(clippy::too_many_arguments)]
pub unsafe fn cuLinkAddData_v2(
    state: CUlinkState,
    kind: u32,
    data: *mut c_void,
    size: usize,
    name: *const c_char,
    numOptions: u32,
    options: *mut u32,
    optionValues: *mut *mut c_void,
) -> CUresult {
    answer(|| {
        lock()?.open_link(state)?;
        let bytes = array(data.cast::<u8>(), size)?.to_vec();
        let name = (!name.is_null()).then(|| CStr::from_ptr(name).to_owned());
        let input = Input::new(kind, bytes, name, settings(numOptions, options, optionValues)?)?;
        lock()?.open_link(state)?.recipe.inputs.push(Arc::new(input));
        Ok(())
    })
}

#[allow(clippy::too_many_arguments)]
pub unsafe fn cuLinkAddData(
    state: CUlinkState,
    kind: u32,
    data: *mut c_void,
    size: usize,
    name: *const c_char,
    numOptions: u32,
    options: *mut u32,
    optionValues: *mut *mut c_void,
) -> CUresult {
    cuLinkAddData_v2(state, kind, data, size, name, numOptions, options, optionValues)
}

/// As with the contents of the file.
pub unsafe fn cuLinkAddFile_v2(
    state: CUlinkState,
    kind: u32,
    path: *const c_char,
    numOptions: u32,
    options: *mut u32,
    optionValues: *mut *mut c_void,
) -> CUresult {
    answer(|| {
        lock()?.open_link(state)?;
        let bytes = std::fs::read(text(path)?).map_err(|_| CUresult::FILE_NOT_FOUND)?;
        let name = Some(CStr::from_ptr(path).to_owned());
        let input = Input::new(kind, bytes, name, settings(numOptions, options, optionValues)?)?;
        lock()?.open_link(state)?.recipe.inputs.push(Arc::new(input));
        Ok(())
    })
}

pub unsafe fn cuLinkAddFile(
    state: CUlinkState,
    kind: u32,
    path: *const c_char,
    numOptions: u32,
    options: *mut u32,
    optionValues: *mut *mut c_void,
) -> CUresult {
    cuLinkAddFile_v2(state, kind, path, numOptions, options, optionValues)
}

/// The image belongs to the link. Asked for again, it is the same.
pub unsafe fn cuLinkComplete(state: CUlinkState, cubinOut: *mut *mut c_void, sizeOut: *mut usize) -> CUresult {
    answer(|| {
        let recipe = {
            let mut st = lock()?;
            let link = st.link(state)?;
            wanted(cubinOut)?;
            link.output.is_none().then(|| link.recipe.clone())
        };
        let linked = recipe.map(|recipe| backend()?.link(&recipe)).transpose()?;
        let mut st = lock()?;
        let link = st.link(state)?;
        // two threads may have linked it: the first result stays where it is
        if let (Some(linked), None) = (linked, &link.output) {
            link.output = Some(linked.into_boxed_slice());
        }
        let output = link.output.as_ref().ok_or(CUresult::UNKNOWN)?;
        out(cubinOut, output.as_ptr().cast_mut().cast())?;
        out_opt(sizeOut, output.len());
        Ok(())
    })
}

pub unsafe fn cuLinkDestroy(state: CUlinkState) -> CUresult {
    answer(|| {
        let mut st = lock()?;
        st.links.remove(&state.0).ok_or(CUresult::INVALID_HANDLE)?;
        st.end(Kind::Link, state.0);
        Ok(())
    })
}
