//! The kernels and variables that PTX declares.
use super::declare::{declared, kind, number, Declared};
use super::initial::{initial, Initial};
use super::lex::{Lexer, Token};
use crate::image::Image;
use crate::kernel::{Global, Kernel, Param};
use crate::Error;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

const BAD: Error = Error::InvalidPtx("a kernel's declaration");
/// What is said of a kernel's registers before a driver has compiled it: enough for any block size, and what many
/// kernels need.
const REGISTERS: u32 = 32;
/// No architecture has room for more parameters (32,764 bytes).
const MAX_PARAM_BYTES: u64 = 1 << 15;

/// Adds what a text declares to the image, for a device of compute capability `cc`.
pub(crate) fn read(text: &[u8], cc: (u32, u32), image: &mut Image) -> Result<(), Error> {
    let text = text.split(|&byte| byte == 0).next().unwrap_or(&[]);
    let ptx_version = super::arch(text)?.sm;
    let mut module = Module { tokens: Lexer::new(text), shared: HashMap::new(), const_size: 0 };
    let kernels = module.read(image)?;
    for mut kernel in kernels {
        (kernel.ptx_version, kernel.binary_version) = (ptx_version, cc.0 * 10 + cc.1);
        kernel.const_size = narrow(module.const_size);
        image.add_kernel(kernel);
    }
    Ok(())
}

struct Module<'a> {
    tokens: Lexer<'a>,
    /// Shared memory declared outside of kernels, by name: size and alignment. A kernel that names one has it.
    shared: HashMap<&'a [u8], (u64, u64)>,
    const_size: u64,
}

/// Memory of which variables take their places one after the other.
#[derive(Default)]
struct Space(u64);

impl Space {
    fn add(&mut self, size: u64, align: u64) {
        self.0 = self.0.checked_next_multiple_of(align.max(1)).unwrap_or(u64::MAX).saturating_add(size);
    }
}

impl<'a> Module<'a> {
    fn read(&mut self, image: &mut Image) -> Result<Vec<Kernel>, Error> {
        let mut kernels = Vec::new();
        let mut elsewhere = false;
        let mut constants = Space::default();
        while let Some(token) = self.tokens.next() {
            match token {
                Token::Dot(b"extern") => elsewhere = true,
                Token::Dot(b"entry") => kernels.extend(self.kernel()?),
                Token::Dot(b"func") => self.skip_function()?,
                Token::Dot(space @ (b"global" | b"const")) => self.variables(|variable, initial| {
                    let constant = space == b"const";
                    let (false, false, Some(size)) = (elsewhere, variable.kind.opaque, size(&variable, &initial))
                    else {
                        return;
                    };
                    if constant {
                        constants.add(size, variable.kind.align);
                    }
                    let range = initial.as_ref().map(|initial| image.add_initial(&initial.bytes));
                    image.add_global(Global {
                        name: text(variable.name),
                        size,
                        constant,
                        managed: variable.kind.managed,
                        relocated: initial.is_some_and(|initial| initial.relocated),
                        initial: range,
                    });
                })?,
                Token::Dot(b"shared") => {
                    let mut found = Vec::new();
                    self.variables(|variable, _| found.push(variable))?;
                    let sized = found
                        .iter()
                        .filter_map(|variable| Some((variable.name, (variable.size()?, variable.kind.align))));
                    self.shared.extend(sized);
                }
                Token::Mark(b'{') => self.skip_block()?,
                _ => {}
            }
            // Linking directives stand right before what they are about.
            elsewhere &= matches!(token, Token::Dot(b"extern" | b"visible" | b"weak" | b"common"));
        }
        self.const_size = constants.0;
        Ok(kernels)
    }

    /// Reads the variables of one declaration, up to its semicolon.
    fn variables(&mut self, mut each: impl FnMut(Declared<'a>, Option<Initial>)) -> Result<(), Error> {
        let kind = kind(&mut self.tokens)?;
        loop {
            let variable = declared(&mut self.tokens, kind)?;
            let mut first = None;
            let mut token = self.tokens.next();
            if token == Some(Token::Mark(b'=')) {
                first = Some(initial(&mut self.tokens, &variable)?);
                token = self.tokens.next();
            }
            each(variable, first);
            match token {
                Some(Token::Mark(b';')) => return Ok(()),
                Some(Token::Mark(b',')) => {}
                _ => return Err(Error::InvalidPtx("a declaration")),
            }
        }
    }

    /// Reads a kernel from its name on; None for a mere declaration.
    fn kernel(&mut self) -> Result<Option<Kernel>, Error> {
        let Some(Token::Name(name)) = self.tokens.next() else { return Err(BAD) };
        let mut kernel = Kernel { registers: REGISTERS, estimated: true, ..Kernel::new(text(name)) };
        if self.tokens.peek() == Some(Token::Mark(b'(')) {
            self.tokens.next();
            self.params(&mut kernel)?;
        }
        loop {
            match self.tokens.next().ok_or(BAD)? {
                Token::Dot(b"maxntid" | b"reqntid") => {
                    let threads = self.triple()?.into_iter().fold(1, u32::saturating_mul);
                    kernel.max_threads = kernel.max_threads.min(threads);
                }
                Token::Dot(b"maxnreg") => kernel.registers = narrow(number(&mut self.tokens).ok_or(BAD)?),
                Token::Dot(b"explicitcluster") => kernel.cluster.must_be_set = true,
                Token::Dot(b"reqnctapercluster") => kernel.cluster.required = self.triple()?,
                Token::Mark(b'{') => {
                    self.body(&mut kernel)?;
                    return Ok(Some(kernel));
                }
                Token::Mark(b';') => return Ok(None),
                _ => {}
            }
        }
    }

    /// Reads parameters up to the closing parenthesis.
    fn params(&mut self, kernel: &mut Kernel) -> Result<(), Error> {
        let mut params = Vec::new();
        let mut end = 0_u64;
        loop {
            match self.tokens.next().ok_or(BAD)? {
                Token::Mark(b')') => break,
                Token::Mark(b',') => {}
                Token::Dot(b"param") => {
                    let kind = kind(&mut self.tokens)?;
                    let param = declared(&mut self.tokens, kind)?;
                    let ordinal = params.len() as u32;
                    if kind.opaque {
                        params.push(Param { ordinal, offset: 0, size: 0 });
                        continue;
                    }
                    let size = param.size().ok_or(BAD)?;
                    let offset = end.checked_next_multiple_of(kind.align).ok_or(BAD)?;
                    end = offset.checked_add(size).filter(|&end| end <= MAX_PARAM_BYTES).ok_or(BAD)?;
                    params.push(Param { ordinal, offset: offset as u32, size: size as u32 });
                }
                _ => return Err(BAD),
            }
        }
        kernel.params = params.into();
        kernel.param_bytes = end as u32;
        Ok(())
    }

    /// Reads up to three numbers; absent ones are 1.
    fn triple(&mut self) -> Result<[u32; 3], Error> {
        let mut triple = [1; 3];
        for (i, value) in triple.iter_mut().enumerate() {
            if i > 0 {
                if self.tokens.peek() != Some(Token::Mark(b',')) {
                    break;
                }
                self.tokens.next();
            }
            *value = narrow(number(&mut self.tokens).ok_or(BAD)?);
        }
        Ok(triple)
    }

    /// Goes through a kernel's body, from behind its opening brace to its closing one, for the memory it declares.
    fn body(&mut self, kernel: &mut Kernel) -> Result<(), Error> {
        let (mut shared, mut local) = (Space::default(), Space::default());
        let mut named: BTreeMap<&[u8], (u64, u64)> = BTreeMap::new();
        let mut depth = 1;
        let mut at_start = true;
        while depth > 0 {
            let token = self.tokens.next().ok_or(BAD)?;
            match token {
                Token::Mark(b'{') => depth += 1,
                Token::Mark(b'}') => depth -= 1,
                Token::Dot(space @ (b"shared" | b"local")) if at_start => self.variables(|variable, _| {
                    let space = if space == b"shared" { &mut shared } else { &mut local };
                    space.add(variable.size().unwrap_or(0), variable.kind.align);
                })?,
                Token::Name(name) => named.extend(self.shared.get_key_value(name)),
                _ => {}
            }
            at_start = matches!(token, Token::Mark(b'{' | b'}' | b';' | b':') | Token::Dot(b"shared" | b"local"));
        }
        for (size, align) in named.into_values() {
            shared.add(size, align);
        }
        (kernel.shared_static, kernel.local) = (narrow(shared.0), narrow(local.0));
        Ok(())
    }

    /// Skips a function from its return value or name to the end of its body, or of its declaration.
    fn skip_function(&mut self) -> Result<(), Error> {
        loop {
            match self.tokens.next().ok_or(Error::InvalidPtx("a function"))? {
                Token::Mark(b';') => return Ok(()),
                Token::Mark(b'{') => return self.skip_block(),
                _ => {}
            }
        }
    }

    /// Skips to behind the brace that closes the one just read.
    fn skip_block(&mut self) -> Result<(), Error> {
        let mut depth = 1;
        while depth > 0 {
            match self.tokens.next().ok_or(Error::InvalidPtx("a block without end"))? {
                Token::Mark(b'{') => depth += 1,
                Token::Mark(b'}') => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Size of a variable; an open first dimension is as long as the initialiser.
fn size(variable: &Declared, initial: &Option<Initial>) -> Option<u64> {
    match (variable.dimensions.first(), initial) {
        (Some(None), Some(initial)) => Some(initial.bytes.len() as u64),
        _ => variable.size(),
    }
}

fn text(name: &[u8]) -> Arc<str> {
    String::from_utf8_lossy(name).into()
}

fn narrow(size: u64) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}
