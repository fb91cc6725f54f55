"""Drop-in for the `spaces` package: marks the functions that need a GPU.

    import spaces

    @spaces.GPU(duration=30)
    def generate(prompt): ...

Under the zerogpu shim the process may hold a GPU only while a marked call runs. In a process without the shim each
form returns the function that it was given, itself, and nothing else happens; torch and gradio are never imported.
"""

from . import config, zero
from ._aoti import (
    aoti_apply,
    aoti_blocks_load,
    aoti_capture,
    aoti_compile,
    aoti_compile_and_save,
    aoti_load,
    aoti_load_call_source,
    aoti_load_from_package_dir,
    aoti_patch,
)
from ._decorator import GPU
from ._gradio import disable_gradio_auto_wrap, enable_gradio_auto_wrap, gradio_auto_wrap

__all__ = [
    "GPU",
    "config",
    "zero",
    "gradio_auto_wrap",
    "disable_gradio_auto_wrap",
    "enable_gradio_auto_wrap",
    "aoti_capture",
    "aoti_compile",
    "aoti_compile_and_save",
    "aoti_apply",
    "aoti_patch",
    "aoti_load",
    "aoti_load_call_source",
    "aoti_load_from_package_dir",
    "aoti_blocks_load",
]
