//! Attributes of kernel nodes (CUlaunchAttribute).
use super::Graphs;
use zerogpu_abi::*;

/// CUlaunchAttributeID.
const COOPERATIVE: u32 = 2;
pub(super) const PROGRAMMATIC_SERIALIZATION: u32 = 6;
pub(super) const PROGRAMMATIC_EVENT: u32 = 7;
pub(super) const PRIORITY: u32 = 8;
pub(super) const COMPLETION_EVENT: u32 = 12;
const DEVICE_UPDATABLE: u32 = 13;

/// Whether cuda.h (13.0) has the attribute for kernel nodes: access policy, cooperative, cluster dimension and scheduling,
/// priority, memory domains, preferred cluster, device-updatable, carveout.
fn is_of_nodes(id: u32) -> Res {
    if matches!(id, 1 | 2 | 4 | 5 | 8 | 9 | 10 | 11 | 13 | 14) {
        Ok(())
    } else {
        Err(CUresult::INVALID_VALUE)
    }
}

/// A node that kernels update by themselves is nothing that we could run again: NOT_SUPPORTED.
pub(super) fn refuse_updatable(id: u32, value: &CUlaunchAttributeValue) -> Res {
    // an int that says yes, then a handle to be written
    let asked = id == DEVICE_UPDATABLE && value.words[0] as u32 != 0;
    if asked {
        Err(CUresult::NOT_SUPPORTED)
    } else {
        Ok(())
    }
}

impl Graphs {
    /// An attribute of a kernel node; zeros if it was not set.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such node, it is no kernel node, or kernel nodes have no such attribute.
    pub fn attribute(&self, node: CUgraphNode, id: u32) -> Res<CUlaunchAttributeValue> {
        let launch = self.node(node)?.work.launch().ok_or(CUresult::INVALID_VALUE)?;
        is_of_nodes(id)?;
        let mut value = CUlaunchAttributeValue { words: [0; 8] };
        match launch.attrs.iter().find(|a| a.id == id) {
            Some(a) => value = a.value,
            None if id == COOPERATIVE => value.words[0] = launch.cooperative as u64,
            None => {}
        }
        Ok(value)
    }

    /// Sets an attribute of a kernel node.
    ///
    /// # Errors
    /// As for [`Graphs::attribute`]; NOT_SUPPORTED: kernels are to update the node.
    pub fn set_attribute(&mut self, node: CUgraphNode, id: u32, value: CUlaunchAttributeValue) -> Res {
        let launch = self.node_mut(node)?.work.launch_mut().ok_or(CUresult::INVALID_VALUE)?;
        is_of_nodes(id)?;
        refuse_updatable(id, &value)?;
        launch.attrs.retain(|a| a.id != id);
        if id == COOPERATIVE {
            launch.cooperative = value.words[0] as u32 != 0;
        } else {
            launch.attrs.push(CUlaunchAttribute { id, pad: [0; 4], value });
        }
        Ok(())
    }

    /// Gives a kernel node the attributes of another.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such node, or one is no kernel node.
    pub fn copy_attributes(&mut self, dst: CUgraphNode, src: CUgraphNode) -> Res {
        let from = self.node(src)?.work.launch().ok_or(CUresult::INVALID_VALUE)?;
        let (attrs, cooperative) = (from.attrs.clone(), from.cooperative);
        let to = self.node_mut(dst)?.work.launch_mut().ok_or(CUresult::INVALID_VALUE)?;
        (to.attrs, to.cooperative) = (attrs, cooperative);
        Ok(())
    }
}
