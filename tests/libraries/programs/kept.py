"""Models whose bytes and addresses must outlast all that only reads them; and no network for anybody."""

import socket
import sys

import checks
import torch


def host_state(module):
    """A copy of the module's parameters and buffers, on the host."""
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


class Kept:
    """A module on the device that nothing may change."""

    def __init__(self, module, originals):
        self._module = module
        self._originals = originals
        self._addresses = {name: tensor.data_ptr() for name, tensor in module.state_dict().items()}
        self.require()

    def require(self):
        """Each tensor is on the device, where it was, with the bytes that it had."""
        state = self._module.state_dict()
        assert state.keys() == self._originals.keys()
        for name, tensor in state.items():
            assert tensor.is_cuda and tensor.data_ptr() == self._addresses[name], name
        require_same(state, self._originals)


def require_same(state, originals):
    """The same tensors, bit for bit."""
    assert state.keys() == originals.keys(), state.keys() ^ originals.keys()
    for name, tensor in state.items():
        there, original = tensor.detach().cpu(), originals[name]
        assert (there.dtype, there.shape) == (original.dtype, original.shape), name
        # as bytes: equal NaN are equal, 0.0 and -0.0 are not
        assert torch.equal(there.contiguous().view(-1).view(torch.uint8), original.contiguous().view(-1).view(torch.uint8)), name


def _no_network(event, arguments):
    asked = event == "socket.getaddrinfo"
    asked = asked or event == "socket.connect" and arguments[0].family in (socket.AF_INET, socket.AF_INET6)
    if asked:
        # a library may hide the error: the test looks for this line
        checks.tell("network", failed=f"{event} {arguments}")
        raise OSError("this program must do without network")


sys.addaudithook(_no_network)
