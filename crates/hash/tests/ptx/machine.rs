//! A machine for the PTX of this crate: parses exactly the instructions that it uses, and runs the threads of a block one
//! after the other from barrier to barrier. It is strict: what it does not know, a register that was never written, memory
//! outside the buffers, a misaligned access or a race in shared memory is a panic.
use std::collections::HashMap;

/// An operand that is read.
#[derive(Clone, Copy, Debug)]
enum Src {
    Reg(usize),
    Imm(u64),
    Tid,
    Ctaid,
    Ntid,
    Nctaid,
}

type Binary = fn(u64, u64) -> u64;

#[derive(Clone, Debug)]
enum Op {
    Move(usize, Src),
    Pack(usize, [Src; 2]),
    Unpack([usize; 2], Src),
    /// The result is cut to so many bits.
    Binary(Binary, u32, usize, Src, Src),
    Param(usize, usize),
    Load(Space, Vec<usize>, Src, u64),
    Store(Space, Vec<Src>, Src, u64),
    Branch(usize),
    Barrier,
    Return,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Space {
    Global,
    Shared,
}

struct Instruction {
    /// The predicate, and the value with which the instruction runs.
    guard: Option<(usize, bool)>,
    op: Op,
}

/// A kernel that can be run.
pub struct Kernel {
    code: Vec<Instruction>,
    registers: usize,
    shared: usize,
    params: usize,
}

/// Global memory: buffers at addresses.
pub struct Memory(pub Vec<(u64, Vec<u8>)>);

impl Memory {
    fn at(&mut self, address: u64, len: usize) -> &mut [u8] {
        let inside = |b: &u64, m: &[u8]| address >= *b && address - b + len as u64 <= m.len() as u64;
        let (base, bytes) = self.0.iter_mut().find(|(b, m)| inside(b, m)).expect("an address inside a buffer");
        let start = (address - *base) as usize;
        &mut bytes[start..start + len]
    }
}

/// Shared memory of a block, and who used which word since the last barrier.
struct Shared {
    bytes: Vec<u8>,
    written: HashMap<u64, usize>,
    read: HashMap<u64, usize>,
}

struct Parser<'a> {
    registers: HashMap<&'a str, usize>,
    labels: HashMap<&'a str, usize>,
    params: Vec<&'a str>,
    shared: HashMap<&'a str, usize>,
}

impl<'a> Parser<'a> {
    fn register(&self, text: &str) -> usize {
        *self.registers.get(text).unwrap_or_else(|| panic!("{text} is not declared"))
    }

    fn source(&self, text: &str) -> Src {
        match text {
            "%tid.x" => Src::Tid,
            "%ctaid.x" => Src::Ctaid,
            "%ntid.x" => Src::Ntid,
            "%nctaid.x" => Src::Nctaid,
            // one array only: it begins at 0
            _ if self.shared.contains_key(text) => Src::Imm(0),
            _ if text.starts_with('%') => Src::Reg(self.register(text)),
            _ => match text.strip_prefix("0x") {
                Some(hex) => Src::Imm(u64::from_str_radix(hex, 16).unwrap()),
                None => Src::Imm(text.parse().unwrap()),
            },
        }
    }

    /// `[name]`, or `[register+offset]`.
    fn address(&self, text: &str) -> (Src, u64) {
        let inside = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).expect("an address");
        let (base, offset) = inside.split_once('+').unwrap_or((inside, "0"));
        (self.source(base), offset.parse().unwrap())
    }

    fn registers(&self, text: &str) -> Vec<usize> {
        list(text).iter().map(|t| self.register(t)).collect()
    }

    fn sources(&self, text: &str) -> Vec<Src> {
        list(text).iter().map(|t| self.source(t)).collect()
    }

    fn instruction(&self, line: &str) -> Instruction {
        let line = line.strip_suffix(';').expect("one instruction a line");
        let (guard, line) = match line.strip_prefix('@') {
            Some(rest) => {
                let (predicate, rest) = rest.split_once(' ').unwrap();
                let (name, value) = predicate.strip_prefix('!').map_or((predicate, true), |name| (name, false));
                (Some((self.register(name), value)), rest.trim())
            }
            None => (None, line),
        };
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let args = operands(rest);
        let binary =
            |f: Binary, bits| Op::Binary(f, bits, self.register(args[0]), self.source(args[1]), self.source(args[2]));
        let op = match name {
            "mov.b64" if args[0].starts_with('{') => {
                Op::Unpack(self.registers(args[0]).try_into().unwrap(), self.source(args[1]))
            }
            "mov.b64" if args[1].starts_with('{') => {
                Op::Pack(self.register(args[0]), self.sources(args[1]).try_into().unwrap())
            }
            "mov.u32" | "mov.u64" | "cvt.u64.u32" | "cvta.to.global.u64" => {
                Op::Move(self.register(args[0]), self.source(args[1]))
            }
            "add.u32" => binary(u64::wrapping_add, 32),
            "add.u64" => binary(u64::wrapping_add, 64),
            "sub.u64" => binary(u64::wrapping_sub, 64),
            "min.u64" => binary(u64::min, 64),
            "mul.lo.u64" => binary(u64::wrapping_mul, 64),
            // both are 32 bits, and so is what a register of 32 bits holds here
            "mul.wide.u32" => binary(|a, b| u64::from(a as u32) * u64::from(b as u32), 64),
            "xor.b32" => binary(|a, b| a ^ b, 32),
            "xor.b64" => binary(|a, b| a ^ b, 64),
            "shl.b32" => binary(|a, b| a << b, 32),
            "shl.b64" => binary(|a, b| a << b, 64),
            "shr.u32" | "shr.u64" => binary(|a, b| a >> b, 64),
            "setp.ge.u32" | "setp.ge.u64" => binary(|a, b| (a >= b) as u64, 1),
            "setp.ne.u32" => binary(|a, b| (a != b) as u64, 1),
            "ld.param.u64" => {
                let name = args[1].trim_matches(['[', ']']);
                Op::Param(self.register(args[0]), self.params.iter().position(|p| *p == name).expect("a parameter"))
            }
            "ld.global.nc.v2.u64" | "ld.shared.v2.u64" => {
                let (base, offset) = self.address(args[1]);
                Op::Load(space(name), self.registers(args[0]), base, offset)
            }
            "st.global.v2.u64" | "st.shared.v2.u64" | "st.global.u64" => {
                let (base, offset) = self.address(args[0]);
                Op::Store(space(name), self.sources(args[1]), base, offset)
            }
            "bra" => Op::Branch(*self.labels.get(args[0]).expect("a label")),
            "bar.sync" => Op::Barrier,
            "ret" => Op::Return,
            other => panic!("the test machine does not know {other}"),
        };
        Instruction { guard, op }
    }
}

fn space(name: &str) -> Space {
    if name.contains(".shared") {
        Space::Shared
    } else {
        Space::Global
    }
}

/// `{a, b}` or `a`.
fn list(text: &str) -> Vec<&str> {
    text.trim_matches(['{', '}']).split(',').map(str::trim).collect()
}

/// Operands, split at the commas outside braces.
fn operands(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (i, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(text[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    found.push(text[start..].trim());
    found
}

impl Kernel {
    /// Parses one kernel of a text.
    pub fn parse(ptx: &str, name: &str) -> Self {
        let begin = ptx.find(&format!(".visible .entry {name}(")).expect("the kernel");
        let body = &ptx[begin..];
        let body = &body[..body.find("\n}").expect("its end")];
        let lines = body.lines().map(|l| l.split("//").next().unwrap().trim()).filter(|l| !l.is_empty());
        let mut p =
            Parser { registers: HashMap::new(), labels: HashMap::new(), params: Vec::new(), shared: HashMap::new() };
        let mut code = Vec::new();
        for line in lines {
            if let Some(names) = line.strip_prefix(".reg ") {
                let names = names.split_once(char::is_whitespace).unwrap().1.trim_end_matches(';');
                for name in names.split(',') {
                    let number = p.registers.len();
                    assert!(p.registers.insert(name.trim(), number).is_none(), "{name} is declared twice");
                }
            } else if let Some(param) = line.strip_prefix(".param .u64 ") {
                p.params.push(param.trim_end_matches(','));
            } else if let Some(array) = line.strip_prefix(".shared .align 16 .b8 ") {
                let (name, size) = array.trim_end_matches("];").split_once('[').unwrap();
                p.shared.insert(name, size.parse().unwrap());
                assert_eq!(p.shared.len(), 1);
            } else if let Some(label) = line.strip_suffix(':') {
                p.labels.insert(label, code.len());
            } else if !(line.starts_with(".visible") || line.starts_with(".maxntid") || ["{", ")"].contains(&line)) {
                code.push(line);
            }
        }
        let code = code.into_iter().map(|line| p.instruction(line)).collect();
        let shared = p.shared.values().sum();
        Kernel { code, registers: p.registers.len(), shared, params: p.params.len() }
    }

    /// Runs a grid, one block after the other.
    pub fn run(&self, memory: &mut Memory, blocks: u32, threads: u32, params: &[u64]) {
        assert_eq!(params.len(), self.params);
        for block in 0..blocks {
            self.block(memory, [blocks, threads, block], params);
        }
    }

    fn block(&self, memory: &mut Memory, place: [u32; 3], params: &[u64]) {
        let mut shared = Shared { bytes: vec![0xEE; self.shared], written: HashMap::new(), read: HashMap::new() };
        let mut threads: Vec<Thread> =
            (0..place[1]).map(|tid| Thread { tid, pc: Some(0), registers: vec![None; self.registers] }).collect();
        while threads.iter().any(|t| t.pc.is_some()) {
            for t in &mut threads {
                t.run(&self.code, memory, &mut shared, place, params);
            }
            let waiting = threads.iter().filter(|t| t.pc.is_some()).count();
            assert!(waiting == 0 || waiting == threads.len(), "some threads wait at a barrier, others have ended");
            shared.written.clear();
            shared.read.clear();
        }
    }
}

struct Thread {
    tid: u32,
    /// None: it has returned.
    pc: Option<usize>,
    registers: Vec<Option<u64>>,
}

impl Thread {
    /// Runs to the next barrier or to the end.
    fn run(&mut self, code: &[Instruction], memory: &mut Memory, shared: &mut Shared, place: [u32; 3], params: &[u64]) {
        while let Some(pc) = self.pc {
            let Instruction { guard, op } = &code[pc];
            self.pc = Some(pc + 1);
            if guard.is_some_and(|(p, value)| (self.registers[p].expect("a predicate that was set") != 0) != value) {
                continue;
            }
            let read = |s: Src| match s {
                Src::Reg(r) => self.registers[r].expect("a register that was written"),
                Src::Imm(value) => value,
                Src::Tid => self.tid.into(),
                Src::Ctaid => place[2].into(),
                Src::Ntid => place[1].into(),
                Src::Nctaid => place[0].into(),
            };
            match op {
                Op::Move(d, s) => self.registers[*d] = Some(read(*s)),
                Op::Pack(d, [lo, hi]) => self.registers[*d] = Some(read(*lo) | read(*hi) << 32),
                Op::Unpack([lo, hi], s) => {
                    let value = read(*s);
                    self.registers[*lo] = Some(value & 0xFFFF_FFFF);
                    self.registers[*hi] = Some(value >> 32);
                }
                Op::Binary(f, bits, d, a, b) => {
                    self.registers[*d] = Some(f(read(*a), read(*b)) & (u64::MAX >> (64 - bits)));
                }
                Op::Param(d, i) => self.registers[*d] = Some(params[*i]),
                Op::Load(space, ds, base, offset) => {
                    let address = read(*base) + offset;
                    assert_eq!(address % (8 * ds.len() as u64), 0, "a misaligned load");
                    for (i, d) in ds.iter().enumerate() {
                        let at = address + 8 * i as u64;
                        let word = match space {
                            Space::Global => memory.at(at, 8),
                            Space::Shared => shared.load(at, self.tid as usize),
                        };
                        self.registers[*d] = Some(u64::from_le_bytes(word.try_into().unwrap()));
                    }
                }
                Op::Store(space, values, base, offset) => {
                    let address = read(*base) + offset;
                    assert_eq!(address % (8 * values.len() as u64), 0, "a misaligned store");
                    for (i, value) in values.iter().enumerate() {
                        let at = address + 8 * i as u64;
                        let word = match space {
                            Space::Global => memory.at(at, 8),
                            Space::Shared => shared.store(at, self.tid as usize),
                        };
                        word.copy_from_slice(&read(*value).to_le_bytes());
                    }
                }
                Op::Branch(to) => self.pc = Some(*to),
                Op::Barrier => return,
                Op::Return => self.pc = None,
            }
        }
    }
}

impl Shared {
    fn load(&mut self, at: u64, tid: usize) -> &mut [u8] {
        assert_eq!(*self.written.get(&at).unwrap_or(&tid), tid, "a race: read what another thread wrote");
        self.read.insert(at, tid);
        &mut self.bytes[at as usize..][..8]
    }

    fn store(&mut self, at: u64, tid: usize) -> &mut [u8] {
        assert_eq!(*self.read.get(&at).unwrap_or(&tid), tid, "a race: written over what another thread read");
        assert_eq!(*self.written.entry(at).or_insert(tid), tid, "a race: two threads write a word");
        &mut self.bytes[at as usize..][..8]
    }
}
