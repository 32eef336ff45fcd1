//! An assembler for eBPF: just the instructions that our programs use.

/// An instruction as the kernel takes it (`struct bpf_insn`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Insn {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A register. `R1` to `R5` are arguments, and lost by a call; `R0` is what it returns. `R10` is
/// the frame: the stack lies below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[rustfmt::skip]
pub(super) enum Reg { R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 }

/// What an instruction works with besides its destination.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operand {
    Reg(Reg),
    Number(i32),
}

impl From<Reg> for Operand {
    fn from(register: Reg) -> Operand {
        Operand::Reg(register)
    }
}

impl From<i32> for Operand {
    fn from(number: i32) -> Operand {
        Operand::Number(number)
    }
}

/// Arithmetic on the whole of a register, but for [`Sub32`](Self::Sub32).
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Alu {
    Add = 0x07,
    Sub = 0x17,
    Mul = 0x27,
    And = 0x57,
    ShiftLeft = 0x67,
    ShiftRight = 0x77,
    Mod = 0x97,
    Xor = 0xa7,
    Mov = 0xb7,
    /// Shifts copies of the sign in.
    ShiftRightSigned = 0xc7,
    /// On the lower half; clears the upper.
    Sub32 = 0x14,
}

/// Comparisons, unsigned.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum If {
    Equal = 0x15,
    GreaterOrEqual = 0x35,
    NotEqual = 0x55,
    Less = 0xa5,
}

/// The size of what is loaded, stored or added to in memory.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Size {
    U32 = 0x00,
    U64 = 0x18,
}

/// Functions of the kernel, by their numbers.
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
pub(super) enum Helper {
    KtimeGetNs = 5,
    GetPrandomU32 = 7,
    SkbLoadBytesRelative = 68,
    SkSelectReuseport = 82,
}

/// A place to jump to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Label(usize);

/// A program that is being written.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    insns: Vec<Insn>,
    /// Where each label is, once it is placed.
    labels: Vec<Option<usize>>,
    /// Jumps, and their labels.
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    /// The instructions, with the jumps resolved.
    ///
    /// # Panics
    ///
    /// When a label was not placed, or is too far away.
    pub(super) fn finish(mut self) -> Vec<Insn> {
        for (at, label) in self.jumps {
            let target = self.labels[label.0].expect("every label is placed");
            let distance = i64::try_from(target).unwrap() - i64::try_from(at).unwrap() - 1;
            self.insns[at].offset = i16::try_from(distance).expect("programs are short");
        }
        self.insns
    }

    /// A label, to be placed later or at once.
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Places a label before the next instruction.
    pub(super) fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.insns.len());
    }

    pub(super) fn alu(&mut self, operation: Alu, dst: Reg, operand: impl Into<Operand>) {
        self.with_operand(operation as u8, dst, operand.into());
    }

    pub(super) fn mov(&mut self, dst: Reg, operand: impl Into<Operand>) {
        self.alu(Alu::Mov, dst, operand);
    }

    pub(super) fn jump_if(
        &mut self,
        condition: If,
        left: Reg,
        right: impl Into<Operand>,
        target: Label,
    ) {
        self.jumps.push((self.insns.len(), target));
        self.with_operand(condition as u8, left, right.into());
    }

    pub(super) fn jump(&mut self, target: Label) {
        self.jumps.push((self.insns.len(), target));
        self.push(0x05, Reg::R0, Reg::R0, 0, 0);
    }

    /// `dst = *(base + offset)`
    pub(super) fn load(&mut self, size: Size, dst: Reg, base: Reg, offset: i16) {
        self.push(0x61 | size as u8, dst, base, offset, 0);
    }

    /// `*(base + offset) = src`
    pub(super) fn store(&mut self, size: Size, base: Reg, offset: i16, src: Reg) {
        self.push(0x63 | size as u8, base, src, offset, 0);
    }

    /// `(*(base + offset), src) = (*(base + offset) + src, *(base + offset))`, atomically
    pub(super) fn fetch_add(&mut self, size: Size, base: Reg, offset: i16, src: Reg) {
        const ADD: i32 = 0x00;
        const FETCH: i32 = 0x01;
        self.push(0xc3 | size as u8, base, src, offset, ADD | FETCH);
    }

    /// `dst` is a number of 64 bits.
    pub(super) fn wide(&mut self, dst: Reg, number: u64) {
        self.load_wide(dst, 0, number);
    }

    /// `dst` stands for a map, as an argument of functions.
    pub(super) fn map(&mut self, dst: Reg, map: i32) {
        const PSEUDO_MAP_FD: u8 = 1;
        self.load_wide(dst, PSEUDO_MAP_FD, u64::from(map.cast_unsigned()));
    }

    /// `dst` points to this offset in the value of a map that is an array of one element.
    pub(super) fn map_value(&mut self, dst: Reg, map: i32, offset: u32) {
        const PSEUDO_MAP_VALUE: u8 = 2;
        let number = u64::from(offset) << 32 | u64::from(map.cast_unsigned());
        self.load_wide(dst, PSEUDO_MAP_VALUE, number);
    }

    pub(super) fn call(&mut self, helper: Helper) {
        self.push(0x85, Reg::R0, Reg::R0, 0, helper as i32);
    }

    pub(super) fn exit(&mut self) {
        self.push(0x95, Reg::R0, Reg::R0, 0, 0);
    }

    fn with_operand(&mut self, code: u8, dst: Reg, operand: Operand) {
        const FROM_REGISTER: u8 = 0x08;
        match operand {
            Operand::Reg(src) => self.push(code | FROM_REGISTER, dst, src, 0, 0),
            Operand::Number(number) => self.push(code, dst, Reg::R0, 0, number),
        }
    }

    /// The one instruction that takes the place of two.
    fn load_wide(&mut self, dst: Reg, kind: u8, number: u64) {
        let halves = [number & u64::from(u32::MAX), number >> 32];
        let [low, high] = halves.map(|half| u32::try_from(half).expect("it is half").cast_signed());
        self.insns.push(Insn {
            code: 0x18,
            registers: registers(dst as u8, kind),
            offset: 0,
            immediate: low,
        });
        self.insns.push(Insn { immediate: high, ..Insn::default() });
    }

    fn push(&mut self, code: u8, dst: Reg, src: Reg, offset: i16, immediate: i32) {
        let registers = registers(dst as u8, src as u8);
        self.insns.push(Insn { code, registers, offset, immediate });
    }
}

/// The two are bit fields of C, whose order follows the machine's byte order.
const fn registers(dst: u8, src: u8) -> u8 {
    if cfg!(target_endian = "little") { src << 4 | dst } else { dst << 4 | src }
}
