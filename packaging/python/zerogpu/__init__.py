"""zerogpu: a program owns a GPU only while a marked call runs.

This package holds files: the libraries of zerogpu (`lib`), the Python hook `spaces` (`lib/python`) and the C header
(`include`). Start programs with the command `zerogpu run`, or `python -m zerogpu run`; nothing here is to be imported.
"""
