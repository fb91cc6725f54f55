"""The forms of `@spaces.GPU`, as source text that runs with and without the shim.

A form makes `task`, marks it (`marked = <mark>`), and uses it: `use` must give `gives`, and with the shim make `calls`.
"""

import typing


class Form(typing.NamedTuple):
    name: str
    mark: str
    calls: typing.Sequence[str]
    task: str = "def task(x):\n    note('runs')\n    return x + x"
    use: str = "marked(4)"
    gives: str = "8"


def _call(seconds="60"):
    return ["begin 1 " + seconds, "note runs", "end 1"]


def _movable(*notes):
    return ["begin 1 60", "movable 1"] + ["note " + text for text in notes] + ["end 1"]


TIMEDELTA = "__import__('datetime').timedelta"

# How the decorator is written.
OPTIONS = [
    Form("bare", "spaces.GPU(task)", _call()),
    Form("parentheses", "spaces.GPU()(task)", _call()),
    Form("task-by-name", "spaces.GPU(task=task)", _call()),
    Form("none", "spaces.GPU(None)(task)", _call()),
    Form("duration", "spaces.GPU(duration=120)(task)", _call("120")),
    Form("duration-positional", "spaces.GPU(45)(task)", _call("45")),
    Form("duration-with-task", "spaces.GPU(task, duration=45)", _call("45")),
    Form("duration-none", "spaces.GPU(duration=None)(task)", _call()),
    Form("duration-float", "spaces.GPU(duration=0.5)(task)", _call("0.5")),
    Form("duration-float-positional", "spaces.GPU(1.5)(task)", _call("1.5")),
    Form("duration-timedelta", f"spaces.GPU(duration={TIMEDELTA}(minutes=2))(task)", _call("120")),
    Form("duration-timedelta-positional", f"spaces.GPU({TIMEDELTA}(days=2))(task)", _call("172800")),
    Form("duration-callable", "spaces.GPU(duration=lambda x: x * 10)(task)", _call("40")),
    Form("duration-callable-none", "spaces.GPU(duration=lambda x: None)(task)", _call()),
    Form(
        "duration-callable-timedelta",
        f"spaces.GPU(duration=lambda x: {TIMEDELTA}(seconds=x))(task)",
        _call("4"),
    ),
    Form(
        "duration-callable-keywords",
        "spaces.GPU(duration=lambda x, steps=1: x * steps)(task)",
        _call("28"),
        task="def task(x, steps=1):\n    note('runs')\n    return x + x",
        use="marked(4, steps=7)",
    ),
    Form("size", "spaces.GPU(size='large')(task)", _call()),
    Form("size-positional", "spaces.GPU('xlarge')(task)", _call()),
    Form("size-and-duration", "spaces.GPU(duration=30, size='xlarge')(task)", _call("30")),
    Form("old-option", "spaces.GPU(enable_queue=False)(task)", _call()),
    Form("twice", "spaces.GPU(spaces.GPU(task))", _call()),
    Form("twice-with-durations", "spaces.GPU(duration=5)(spaces.GPU(duration=9)(task))", _call("9")),
    Form("three-times", "spaces.GPU(spaces.GPU()(spaces.GPU(task)))", _call()),
]

_METHOD = "class C:\n    {}def f({}, x):\n        note('runs')\n        return x + x\n"

# What is marked.
KINDS = [
    Form("lambda", "spaces.GPU(task)", _call(), task="task = lambda x: note('runs') or x + x"),
    Form("builtin", "spaces.GPU(task)", ["begin 1 60", "end 1"], task="task = sum", use="marked([4, 4])"),
    Form(
        "partial",
        "spaces.GPU(task)",
        _call(),
        task="import functools\ndef add(x, y):\n    note('runs')\n    return x + y\ntask = functools.partial(add, y=4)",
    ),
    Form(
        "callable-object",
        "spaces.GPU(task)",
        _call(),
        task="class C:\n    def __call__(self, x):\n        note('runs')\n        return x + x\ntask = C()",
    ),
    Form(
        "class",
        "spaces.GPU(task)",
        _call(),
        task="class task:\n    def __init__(self, x):\n        note('runs')\n        self.x = x + x",
        use="marked(4).x",
    ),
    Form(
        "method",
        "spaces.GPU(task)",
        _call(),
        task=_METHOD.format("", "self") + "task = C.__dict__['f']",
        use="setattr(C, 'f', marked) or C().f(4)",
    ),
    Form(
        "method-duration",
        "spaces.GPU(duration=lambda self, x: self.base + x)(task)",
        _call("104"),
        task=_METHOD.format("", "self") + "    base = 100\ntask = C.__dict__['f']",
        use="setattr(C, 'f', marked) or C().f(4)",
    ),
    Form("bound-method", "spaces.GPU(task)", _call(), task=_METHOD.format("", "self") + "task = C().f"),
    Form(
        "bound-method-duration",
        "spaces.GPU(duration=lambda x: x)(task)",
        _call("4"),
        task=_METHOD.format("", "self") + "task = C().f",
    ),
    Form(
        "bound-method-of-marked",
        "spaces.GPU(task)",
        _call("7"),
        task=_METHOD.format("@spaces.GPU(7)\n    ", "self") + "task = C().f",
    ),
    Form(
        "over-classmethod",
        "spaces.GPU(task)",
        _call(),
        task=_METHOD.format("@classmethod\n    ", "cls") + "task = C.__dict__['f']",
        use="setattr(C, 'f', marked) or C.f(4)",
    ),
    Form(
        "over-classmethod-by-object",
        "spaces.GPU(duration=lambda cls, x: 9)(task)",
        _call("9"),
        task=_METHOD.format("@classmethod\n    ", "cls") + "task = C.__dict__['f']",
        use="setattr(C, 'f', marked) or C().f(4)",
    ),
    Form(
        "under-classmethod",
        "spaces.GPU(task)",
        _call(),
        task=_METHOD.format("", "cls") + "task = C.__dict__['f']",
        use="setattr(C, 'f', classmethod(marked)) or C.f(4)",
    ),
    Form(
        "over-staticmethod",
        "spaces.GPU(task)",
        _call(),
        task="class C:\n    @staticmethod\n    def f(x):\n        note('runs')\n        return x + x\n"
        "task = C.__dict__['f']",
        use="setattr(C, 'f', marked) or C().f(4)",
    ),
    Form("under-staticmethod", "spaces.GPU(task)", _call(), use="type('C', (), {'f': staticmethod(marked)})().f(4)"),
    Form(
        "under-another-decorator",
        "spaces.GPU(task)",
        _call(),
        task="import functools\ndef logged(f):\n    @functools.wraps(f)\n    def call(*a, **k):\n"
        "        return f(*a, **k)\n    return call\n@logged\ndef task(x):\n    note('runs')\n    return x + x",
    ),
    Form(
        "calls-marked",
        "spaces.GPU(task)",
        ["begin 1 60", "note inner", "end 1"],
        task="@spaces.GPU(5)\ndef inner(x):\n    note('inner')\n    return x\ndef task(x):\n    return inner(x) * 2",
    ),
    Form(
        "calls-itself",
        "spaces.GPU(task)",
        ["begin 1 60", "end 1"],
        task="def task(x):\n    return marked(x - 2) + 4 if x else 0",
    ),
    Form(
        "generator",
        "spaces.GPU(task)",
        _movable("0", "1"),
        task="def task(n):\n    for i in range(n):\n        note(i)\n        yield i",
        use="list(marked(2))",
        gives="[0, 1]",
    ),
    Form(
        "generator-lambda",
        "spaces.GPU(task)",
        _movable("runs"),
        task="task = lambda x: (yield note('runs') or x)",
        use="list(marked(4))",
        gives="[4]",
    ),
    Form(
        "generator-partial",
        "spaces.GPU(task)",
        _movable("1"),
        task="import functools\ndef pair(a, b):\n    note(a)\n    yield a + b\ntask = functools.partial(pair, 1)",
        use="list(marked(2))",
        gives="[3]",
    ),
    Form(
        "generator-callable-object",
        "spaces.GPU(task)",
        _movable("runs"),
        task="class C:\n    def __call__(self, x):\n        note('runs')\n        yield x\ntask = C()",
        use="list(marked(4))",
        gives="[4]",
    ),
    Form(
        "generator-partial-of-callable-object",
        "spaces.GPU(task)",
        _movable("runs"),
        task="import functools\nclass C:\n    def __call__(self, x):\n        note('runs')\n        yield x\n"
        "task = functools.partial(C(), 4)",
        use="list(marked())",
        gives="[4]",
    ),
    Form(
        "generator-classmethod",
        "spaces.GPU(task)",
        _movable("runs"),
        task="class C:\n    @classmethod\n    def f(cls, x):\n        note('runs')\n        yield x\n"
        "task = C.__dict__['f']",
        use="setattr(C, 'f', marked) or list(C.f(4))",
        gives="[4]",
    ),
    Form(
        "generator-duration",
        "spaces.GPU(duration=lambda x: x)(task)",
        ["begin 1 4", "movable 1", "end 1"],
        task="def task(x):\n    yield x",
        use="list(marked(4))",
        gives="[4]",
    ),
    Form(
        "generator-twice",
        "spaces.GPU(spaces.GPU(task))",
        _movable(),
        task="def task(x):\n    yield x",
        use="list(marked(4))",
        gives="[4]",
    ),
    Form(
        "coroutine",
        "spaces.GPU(task)",
        _movable("runs"),
        task="import asyncio\nasync def task(x):\n    await asyncio.sleep(0)\n    note('runs')\n    return x + x",
        use="asyncio.run(marked(4))",
    ),
    Form(
        "coroutine-callable-object",
        "spaces.GPU(task)",
        _movable("runs"),
        task="import asyncio\nclass C:\n    async def __call__(self, x):\n        note('runs')\n        return x + x\n"
        "task = C()",
        use="asyncio.run(marked(4))",
    ),
    Form(
        "coroutine-partial",
        "spaces.GPU(task)",
        _movable("runs"),
        task="import asyncio, functools\nasync def add(x, y):\n    note('runs')\n    return x + y\n"
        "task = functools.partial(add, 4)",
        use="asyncio.run(marked(4))",
    ),
    Form(
        "async-generator",
        "spaces.GPU(task)",
        _movable("0", "1"),
        task="import asyncio\nasync def task(n):\n    for i in range(n):\n        await asyncio.sleep(0)\n"
        "        note(i)\n        yield i\nasync def collect(items):\n    return [item async for item in items]",
        use="asyncio.run(collect(marked(2)))",
        gives="[0, 1]",
    ),
]

ALL = OPTIONS + KINDS
