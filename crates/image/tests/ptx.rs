//! What PTX tells against what the same PTX became when it was compiled.
mod common;
use common::*;
use zerogpu_image::{Error, Image, Source};

/// Everything but what only a compiler knows (registers, stack, barriers) must be the same.
fn agree(ptx: &Image, compiled: &Image) {
    assert!(ptx.is_ptx() && !compiled.is_ptx());
    assert_eq!(ptx.kernels().len(), compiled.kernels().len());
    for kernel in ptx.kernels() {
        let name = &*kernel.name;
        let other = compiled.kernel(name).unwrap_or_else(|| panic!("{name} is no kernel"));
        assert_eq!(layout(kernel), layout(other), "{name}");
        assert_eq!((kernel.param_bytes, kernel.max_threads), (other.param_bytes, other.max_threads), "{name}");
        assert_eq!((kernel.ptx_version, kernel.binary_version), (other.ptx_version, other.binary_version), "{name}");
        assert_eq!(kernel.cluster, other.cluster, "{name}");
        assert!(kernel.estimated && kernel.registers > 0, "{name}");
    }
    for global in ptx.globals() {
        let name = &*global.name;
        let other = compiled.global(name).unwrap_or_else(|| panic!("{name} is no variable"));
        let facts = |g: &zerogpu_image::Global| (g.size, g.constant, g.managed, g.relocated);
        assert_eq!(facts(global), facts(other), "{name}");
        assert_eq!(contents(ptx, global), contents(compiled, other), "{name}");
    }
}

#[test]
fn what_nvrtc_writes_is_read_as_it_compiles() {
    let (ptx, compiled) = (image(PTX80, (8, 0)), image(SM80, (8, 0)));
    agree(&ptx, &compiled);
    assert_eq!(ptx.globals().len(), compiled.globals().len());
    for name in ["both_shared", "static_shared", "empty"] {
        assert_eq!(ptx.kernel(name).unwrap().shared_static, compiled.kernel(name).unwrap().shared_static, "{name}");
    }
    assert_eq!(ptx.kernel("local_array").unwrap().local, 400);
    assert_eq!(ptx.kernel("many").unwrap().const_size, compiled.kernel("many").unwrap().const_size);
    agree(&image(PTX90, (9, 0)), &image(SM90, (9, 0)));
}

#[test]
fn what_else_the_grammar_allows_is_read_as_it_compiles() {
    let (ptx, compiled) = (image(DIRECTIVES, (9, 0)), image(DIRECTIVES_SM90, (9, 0)));
    agree(&ptx, &compiled);
    let names: Vec<_> = ptx.kernels().iter().map(|kernel| &*kernel.name).collect();
    assert_eq!(names, ["every_type", "no_parameters", "dollar$_name_1"]);
    let names: Vec<_> = ptx.globals().iter().map(|global| &*global.name).collect();
    let expected = ["quads", "common_one", "two", "rows", "managed", "open", "pointers", "pi", "constants", "aligned"];
    assert_eq!(names, expected);
    let kernel = ptx.kernel("no_parameters").unwrap();
    // 10 bytes, 4 aligned to 4, then those of the module's pool, which the body names, aligned to 8.
    assert_eq!((kernel.shared_static, kernel.local), (40, 24 + 5 + 3 + 8));
    assert_eq!(ptx.kernel("every_type").unwrap().registers, 40);
}

#[test]
fn ptx_compiles_for_its_own_and_later_architectures() {
    let source = Source::from_bytes(PTX80).unwrap();
    for cc in [(8, 0), (8, 9), (9, 0), (12, 0)] {
        assert!(source.fits(cc));
        assert_eq!(source.image_for(cc).unwrap().kernel("empty").unwrap().binary_version, cc.0 * 10 + cc.1);
    }
    assert!(!source.fits((7, 5)));
    let error = source.image_for((7, 5)).unwrap_err();
    assert_eq!(error.code().0, 218);
}

#[test]
fn damaged_ptx_is_an_error() {
    let error = |text: &str| {
        let text = format!(".version 8.0 .target sm_80 .address_size 64 {text}");
        Source::from_bytes(text).unwrap().image_for((8, 0)).map(|_| ()).unwrap_err()
    };
    for text in [
        ".entry",
        ".entry k",
        ".entry k(",
        ".entry k(.param .u64 p",
        ".entry k(.param .u64 p[])  { ret; }",
        ".entry k(.param .b8 p[40000]) { ret; }",
        ".entry k(.param .align 3 .u64 p) { ret; }",
        ".entry k(.reg .u64 p) { ret; }",
        ".entry k { ret;",
        ".entry k .maxntid { ret; }",
        ".func f { ret;",
        ".global .u32",
        ".global x;",
        ".global .u32 x[",
        ".global .u32 x = {1, 2;",
        "{ {",
    ] {
        assert!(matches!(error(text), Error::InvalidPtx(_)), "{text}");
    }
    assert!(matches!(Source::from_bytes(".version 8.0").unwrap().image_for((8, 0)), Err(Error::InvalidPtx(_))));
    assert!(!Source::from_bytes(".version 8.0 .target sm_x").unwrap().fits((9, 0)));
}
