#include "textflag.h"

// Offsets in moveTables.
#define KEEP  512
#define RANKS 1024

// SHIFT moves the bytes of cur up by one, the last byte of prev coming in, and
// keeps those that the mask at off(BX) says. The registers are shifted from the
// last to the first.
#define SHIFT(prev, cur, off) \
	VPERM2I128 $0x21, cur, prev, Y12 \ // the upper half of prev, the lower of cur
	VPALIGNR   $15, Y12, cur, Y12    \
	VMOVDQU    off(BX), Y11          \
	VPBLENDVB  Y11, cur, Y12, cur

// func applyMovesAVX2(list *[256]byte, rank *[256]uint32, column *uint32, n, limit int, moves *uint64, count int, tables *moveTables) int
TEXT ·applyMovesAVX2(SB), NOSPLIT, $0-72
	MOVQ list+0(FP), DI
	MOVQ rank+8(FP), SI
	MOVQ column+16(FP), R8
	MOVQ n+24(FP), R9
	MOVQ limit+32(FP), R10
	MOVQ moves+40(FP), R11
	MOVQ count+48(FP), R12
	MOVQ tables+56(FP), R13
	LEAQ (R11)(R12*8), R12

	VMOVDQU 0(DI), Y0
	VMOVDQU 32(DI), Y1
	VMOVDQU 64(DI), Y2
	VMOVDQU 96(DI), Y3
	VMOVDQU 128(DI), Y4
	VMOVDQU 160(DI), Y5
	VMOVDQU 192(DI), Y6
	VMOVDQU 224(DI), Y7
	VMOVDQU RANKS(R13), Y8

	MOVL         $(8*256), AX
	VMOVD        AX, X9
	VPBROADCASTD X9, Y9

next:
	CMPQ    R11, R12
	JAE     done
	MOVQ    (R11), AX
	ADDQ    $8, R11
	MOVBLZX AX, BX    // place
	MOVQ    AX, CX
	SHRQ    $8, CX    // count
	CMPL    BX, $16
	JAE     deep

	SHLL    $5, BX
	VPSHUFB (R13)(BX*1), Y0, Y0
	VMOVD   X0, DX
	MOVBLZX DX, DX

emit:
	LEAQ         (R9)(CX*1), BX
	CMPQ         BX, R10
	JHI          full
	VPBROADCASTD (SI)(DX*4), Y10
	ANDL         $~255, AX           // count in the unit of ranks
	ADDL         AX, (SI)(DX*4)
	VPADDD       Y8, Y10, Y10
	VMOVDQU      Y10, (R8)(R9*4)
	CMPQ         CX, $8
	JHI          run
	MOVQ         BX, R9
	JMP          next

run:
	ADDQ    $8, R9
	SUBQ    $8, CX
	VPADDD  Y9, Y10, Y10
	VMOVDQU Y10, (R8)(R9*4)
	CMPQ    CX, $8
	JHI     run
	MOVQ    BX, R9
	JMP     next

deep:
	VMOVDQU      Y0, 0(DI)
	VMOVDQU      Y1, 32(DI)
	VMOVDQU      Y2, 64(DI)
	VMOVDQU      Y3, 96(DI)
	VMOVDQU      Y4, 128(DI)
	VMOVDQU      Y5, 160(DI)
	VMOVDQU      Y6, 192(DI)
	VMOVDQU      Y7, 224(DI)
	VPBROADCASTB (DI)(BX*1), Y13
	MOVBLZX      (DI)(BX*1), DX
	NEGQ         BX
	LEAQ         KEEP+255(R13)(BX*1), BX
	SHIFT(Y6, Y7, 224)
	SHIFT(Y5, Y6, 192)
	SHIFT(Y4, Y5, 160)
	SHIFT(Y3, Y4, 128)
	SHIFT(Y2, Y3, 96)
	SHIFT(Y1, Y2, 64)
	SHIFT(Y0, Y1, 32)
	SHIFT(Y13, Y0, 0)
	JMP          emit

full:
	MOVQ $-1, R9

done:
	VMOVDQU Y0, 0(DI)
	VMOVDQU Y1, 32(DI)
	VMOVDQU Y2, 64(DI)
	VMOVDQU Y3, 96(DI)
	VMOVDQU Y4, 128(DI)
	VMOVDQU Y5, 160(DI)
	VMOVDQU Y6, 192(DI)
	VMOVDQU Y7, 224(DI)
	VZEROUPPER
	MOVQ    R9, ret+64(FP)
	RET
