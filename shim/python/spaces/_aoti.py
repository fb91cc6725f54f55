"""The ahead-of-time compilation helpers of the original package: named here so that imports work, not supported."""


def _unsupported(name):
    def helper(*args, **kwargs):
        raise NotImplementedError(
            f"spaces.{name}: ahead-of-time compiled models are not supported by zerogpu. "
            "Call the module as it is, or torch.compile it: compiled code is kept between calls."
        )

    helper.__name__ = helper.__qualname__ = name
    helper.__doc__ = "Raises NotImplementedError."
    return helper


aoti_capture = _unsupported("aoti_capture")
aoti_compile = _unsupported("aoti_compile")
aoti_compile_and_save = _unsupported("aoti_compile_and_save")
aoti_apply = _unsupported("aoti_apply")
aoti_patch = _unsupported("aoti_patch")
aoti_load = _unsupported("aoti_load")
aoti_load_call_source = _unsupported("aoti_load_call_source")
aoti_load_from_package_dir = _unsupported("aoti_load_from_package_dir")
aoti_blocks_load = _unsupported("aoti_blocks_load")
