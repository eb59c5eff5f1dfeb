package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Screendump writes what the VM's monitor shows as a PNG file.
func (vm *VM) Screendump(ctx context.Context, path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	// QEMU before 7.1, or built without libpng, knows no format argument.
	if _, err := vm.QMP(ctx, "screendump", map[string]any{"filename": path, "format": "png"}); err == nil {
		return nil
	}
	dump := path + ".ppm"
	if _, err := vm.QMP(ctx, "screendump", map[string]any{"filename": dump}); err != nil {
		return err
	}
	in, err := os.Open(dump)
	if err != nil {
		return err
	}
	picture, err := decodePPM(in)
	if err := errors.Join(err, in.Close(), os.Remove(dump)); err != nil {
		return fmt.Errorf("convert screendump %s: %w", dump, err)
	}
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := errors.Join(png.Encode(out, picture), out.Close()); err != nil {
		return fmt.Errorf("write screendump %s: %w", path, err)
	}
	return nil
}

// decodePPM reads the one form of netpbm's PPM that QEMU writes (ui/ui-qmp-cmds.c):
// P6, no comments, 8 bits.
func decodePPM(r io.Reader) (image.Image, error) {
	in := bufio.NewReader(r)
	var width, height, maximum int
	if _, err := fmt.Fscanf(in, "P6\n%d %d\n%d\n", &width, &height, &maximum); err != nil {
		return nil, fmt.Errorf("read PPM header: %w", err)
	}
	const most = 1 << 12
	if width <= 0 || height <= 0 || width > most || height > most || maximum != 255 {
		return nil, fmt.Errorf("read PPM header: %d by %d pixels, maximum %d", width, height, maximum)
	}
	picture := image.NewRGBA(image.Rect(0, 0, width, height))
	row := make([]byte, width*3)
	for y := range height {
		if _, err := io.ReadFull(in, row); err != nil {
			return nil, fmt.Errorf("read PPM row %d: %w", y, err)
		}
		for x := range width {
			picture.SetRGBA(x, y, color.RGBA{row[x*3], row[x*3+1], row[x*3+2], 0xff})
		}
	}
	return picture, nil
}

// VGA's text memory, and the registers that say where in it the screen
// starts: Linux' vgacon scrolls by moving the start.
const (
	textMemory     = 0xb8000
	textMemorySize = 0x8000
	textColumns    = 80
	textRows       = 25
)

// codePage437 is what the upper half of VGA's font looks like.
const codePage437 = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00a0"

// TextScreen reads the 80x25 text screen, one line per row, right-trimmed;
// bytes are taken as code page 437, without its control pictures. It says nothing
// useful when the screen is in a graphics mode.
func (vm *VM) TextScreen(ctx context.Context) (text string, err error) {
	// Stopped, so that the index register can be put back unnoticed.
	if _, err := vm.QMP(ctx, "stop", nil); err != nil {
		return "", err
	}
	defer func() {
		_, contErr := vm.QMP(ctx, "cont", nil)
		err = errors.Join(err, contErr)
	}()
	start, err := vm.screenStart(ctx)
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "vm-screen-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir) // a leftover in the temporary directory harms nobody
	file := filepath.Join(dir, "text")
	if _, err := vm.QMP(ctx, "pmemsave", map[string]any{"val": textMemory, "size": textMemorySize, "filename": file}); err != nil {
		return "", err
	}
	memory, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	return decodeText(memory, start), nil
}

// screenStart reads CRTC registers 0x0c and 0x0d: the start in characters.
func (vm *VM) screenStart(ctx context.Context) (int, error) {
	index, err := vm.readPort(ctx, "0x3d4")
	if err != nil {
		return 0, err
	}
	high, err := vm.readPort(ctx, "0x3d4.0x0c")
	if err != nil {
		return 0, err
	}
	low, err := vm.readPort(ctx, "0x3d4.0x0d")
	if err != nil {
		return 0, err
	}
	_, err = vm.HMP(ctx, fmt.Sprintf("o /b 0x3d4 %#x", index))
	return (high<<8 | low) * 2, err
}

func (vm *VM) readPort(ctx context.Context, port string) (int, error) {
	said, err := vm.HMP(ctx, "i /b "+port)
	if err != nil {
		return 0, err
	}
	_, value, _ := strings.Cut(said, "=") // portb[0x03d4] = 0x0f
	n, err := strconv.ParseUint(strings.TrimSpace(value), 0, 8)
	if err != nil {
		return 0, fmt.Errorf("read I/O port %s: QEMU said %q", port, said)
	}
	return int(n), nil
}

func decodeText(memory []byte, start int) string {
	upper := []rune(codePage437)
	var text strings.Builder
	for row := range textRows {
		line := make([]rune, textColumns)
		for column := range textColumns {
			c := memory[(start+(row*textColumns+column)*2)%len(memory)]
			line[column] = rune(c)
			switch {
			case c >= 0x80:
				line[column] = upper[c-0x80]
			case c < ' ' || c == 0x7f:
				line[column] = ' '
			}
		}
		text.WriteString(strings.TrimRight(string(line), " "))
		text.WriteByte('\n')
	}
	return text.String()
}
