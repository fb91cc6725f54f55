"""Models whose bytes and addresses must outlast all that only reads them; and no network for anybody."""

import socket
import sys

import checks
import shim
import torch


def claims():
    """How often a GPU was claimed so far; before the first driver call the shim has nothing to say."""
    return shim.state().get("claims", 0)


def host_state(module):
    """A copy of the module's parameters and buffers, on the host."""
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


class Kept:
    """A module on the device that nothing may change."""

    def __init__(self, module, originals):
        self._module = module
        self._originals = originals
        self._addresses = self._now()
        self.require()

    def require(self):
        """Each tensor is on the device, where it was, with the bytes that it had."""
        assert self._now() == self._addresses and {kind for kind, _ in self._addresses.values()} == {"cuda"}
        require_same(self._module.state_dict(), self._originals)

    def _now(self):
        tensors = [*self._module.named_parameters(), *self._module.named_buffers()]
        return {name: (tensor.device.type, tensor.data_ptr()) for name, tensor in tensors}


def watched(module, originals, prefix=""):
    """Looks at the weights of each linear layer and convolution while it computes: on the device, with their bytes.

    Gives the list of the layers that computed, which grows. To be called before anything that moves weights is put
    around the layers' `forward`.
    """
    computed = []

    def around(name, layer, forward):
        def look(*arguments):
            state = {f"{prefix}{name}.{key}": tensor for key, tensor in layer.named_parameters()}
            assert state and all(tensor.is_cuda for tensor in [*state.values(), *arguments]), name
            require_same(state, {key: originals[key] for key in state})
            computed.append(prefix + name)
            return forward(*arguments)

        return look

    for name, layer in module.named_modules():
        if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)):
            layer.forward = around(name, layer, layer.forward)
    return computed


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
