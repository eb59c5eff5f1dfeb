package boot

import "fmt"

// instruction is one line of a listing: its mnemonic, and the machine code it
// has by the Intel SDM, volume 2. A target's address follows the code.
type instruction struct {
	label    string
	mnemonic string
	code     []byte
	rel8     string // label; one byte, relative to the next instruction
	abs16    string // label; two bytes, little-endian address
}

// holdingListing is 16-bit code. Interrupts stay on while it halts, so that
// Ctrl-Alt-Del works for whoever has put in a stick; nothing else leads out of
// the last loop.
//
// The screen comes first and whole: int 14h waits a second or more for each
// character on a port with no listener (no DSR or CTS), so the serial loop
// gives up at the first time-out.
func holdingListing() []instruction {
	return []instruction{
		// Some BIOSes enter at 07C0:0000: the far jump makes CS 0.
		{mnemonic: "cli", code: []byte{0xfa}},
		{mnemonic: "xor ax, ax", code: []byte{0x31, 0xc0}},
		{mnemonic: "mov ds, ax", code: []byte{0x8e, 0xd8}},
		{mnemonic: "mov ss, ax", code: []byte{0x8e, 0xd0}},
		{mnemonic: "mov sp, 0x7c00", code: []byte{0xbc, 0x00, 0x7c}},
		{mnemonic: "jmp 0:start", code: []byte{0xea}, abs16: "start"},
		{mnemonic: "dw 0", code: []byte{0x00, 0x00}},
		{label: "start", mnemonic: "sti", code: []byte{0xfb}},
		{mnemonic: "cld", code: []byte{0xfc}},

		// int 10h AH=00h: text mode 3, 80x25, away from a firmware's logo.
		{mnemonic: "mov ax, 0x0003", code: []byte{0xb8, 0x03, 0x00}},
		{mnemonic: "int 0x10", code: []byte{0xcd, 0x10}},

		// int 10h AH=0Eh: teletype, page 0. Old BIOSes lose BP when it scrolls,
		// and a careless one may lose SI.
		{mnemonic: "mov si, message", code: []byte{0xbe}, abs16: "message"},
		{label: "screen", mnemonic: "lodsb", code: []byte{0xac}},
		{mnemonic: "test al, al", code: []byte{0x84, 0xc0}},
		{mnemonic: "jz serial", code: []byte{0x74}, rel8: "serial"},
		{mnemonic: "mov ah, 0x0e", code: []byte{0xb4, 0x0e}},
		{mnemonic: "mov bx, 0x0007", code: []byte{0xbb, 0x07, 0x00}},
		{mnemonic: "push si", code: []byte{0x56}},
		{mnemonic: "int 0x10", code: []byte{0xcd, 0x10}},
		{mnemonic: "pop si", code: []byte{0x5e}},
		{mnemonic: "jmp screen", code: []byte{0xeb}, rel8: "screen"},

		// The BIOS data area has the first port's I/O address at 0x400, 0 for none.
		{label: "serial", mnemonic: "mov bx, [0x0400]", code: []byte{0x8b, 0x1e, 0x00, 0x04}},
		{mnemonic: "test bx, bx", code: []byte{0x85, 0xdb}},
		{mnemonic: "jz halt", code: []byte{0x74}, rel8: "halt"},

		// int 14h AH=00h: 9600 8N1 on port 0, the fastest that it knows.
		{mnemonic: "mov ax, 0x00e3", code: []byte{0xb8, 0xe3, 0x00}},
		{mnemonic: "xor dx, dx", code: []byte{0x31, 0xd2}},
		{mnemonic: "int 0x14", code: []byte{0xcd, 0x14}},
		// 115200, what console=ttyS0 is mostly used with: divisor 1 in the 16550's
		// latch, reached while bit 7 of its line control register (base+3) is set.
		{mnemonic: "lea dx, [bx+3]", code: []byte{0x8d, 0x57, 0x03}},
		{mnemonic: "mov al, 0x83", code: []byte{0xb0, 0x83}},
		{mnemonic: "out dx, al", code: []byte{0xee}},
		{mnemonic: "mov dx, bx", code: []byte{0x89, 0xda}},
		{mnemonic: "mov ax, 0x0001", code: []byte{0xb8, 0x01, 0x00}},
		{mnemonic: "out dx, ax", code: []byte{0xef}},
		{mnemonic: "lea dx, [bx+3]", code: []byte{0x8d, 0x57, 0x03}},
		{mnemonic: "mov al, 0x03", code: []byte{0xb0, 0x03}},
		{mnemonic: "out dx, al", code: []byte{0xee}},

		// int 14h AH=01h: send AL; bit 7 of AH comes back set on a time-out.
		{mnemonic: "mov si, message", code: []byte{0xbe}, abs16: "message"},
		{label: "send", mnemonic: "lodsb", code: []byte{0xac}},
		{mnemonic: "test al, al", code: []byte{0x84, 0xc0}},
		{mnemonic: "jz halt", code: []byte{0x74}, rel8: "halt"},
		{mnemonic: "mov ah, 0x01", code: []byte{0xb4, 0x01}},
		{mnemonic: "xor dx, dx", code: []byte{0x31, 0xd2}},
		{mnemonic: "push si", code: []byte{0x56}},
		{mnemonic: "int 0x14", code: []byte{0xcd, 0x14}},
		{mnemonic: "pop si", code: []byte{0x5e}},
		{mnemonic: "test ah, ah", code: []byte{0x84, 0xe4}},
		{mnemonic: "jns send", code: []byte{0x79}, rel8: "send"},

		{label: "halt", mnemonic: "hlt", code: []byte{0xf4}},
		{mnemonic: "jmp halt", code: []byte{0xeb}, rel8: "halt"},

		{label: "message", mnemonic: "db message, 0", code: append([]byte(holdingMessage), 0)},
	}
}

// assemble lays the listing out from origin and fills in the addresses of the
// labels.
func assemble(listing []instruction, origin int) ([]byte, error) {
	labels := map[string]int{}
	address := origin
	for _, in := range listing {
		if in.label != "" {
			labels[in.label] = address
		}
		address += in.size()
	}
	var code []byte
	for _, in := range listing {
		code = append(code, in.code...)
		target, known := labels[in.rel8+in.abs16]
		if !known && in.rel8+in.abs16 != "" {
			return nil, fmt.Errorf("%s: unknown label", in.mnemonic)
		}
		switch {
		case in.rel8 != "":
			distance := target - (origin + len(code) + 1)
			if distance < -128 || distance > 127 {
				return nil, fmt.Errorf("%s: target is %d bytes away", in.mnemonic, distance)
			}
			code = append(code, byte(distance))
		case in.abs16 != "":
			code = append(code, byte(target), byte(target>>8))
		}
	}
	return code, nil
}

func (in instruction) size() int {
	size := len(in.code)
	if in.rel8 != "" {
		size++
	}
	if in.abs16 != "" {
		size += 2
	}
	return size
}
