"""The settings of the original package that programs ask for."""

from . import _gradio, _shim


class _Config:
    """`Config.zero_gpu`: whether a GPU is held only while a marked call runs, as under the shim."""

    @property
    def zero_gpu(self):
        return _shim.find() is not None

    @property
    def gradio_auto_wrap(self):
        return _gradio.is_enabled()


Config = _Config()
