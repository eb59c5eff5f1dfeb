package texts

import "strings"

// font is what the kernel's default font has beside ASCII: code page 437, in all of
// lib/fonts and in the ROM of VGA cards. Which letters it is asked to show for others
// depends on the kernel (drivers/tty/vt/cp437.uni), so that others are not asked for.
const font = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥ƒáíóúñÑªº¿¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀ßµ±÷°·²"

// alike are letters that the font lacks, and what is shown in their place.
const alike = "ÀA ÁA ÂA ÃA ÈE ÊE ËE ÌI ÍI ÎI ÏI ÒO ÓO ÔO ÕO ÙU ÚU ÛU ÝY ãa õo ýy " +
	"ĄA ąa ĆC ćc ĘE ęe ŁL łl ŃN ńn ŚS śs ŹZ źz ŻZ żz ČC čc ĎD ďd ĚE ěe ŇN ňn ŘR řr ŠS šs ŤT ťt ŮU ůu ŽZ žz ŐO őo ŰU űu " +
	"ĂA ăa ȘS șs ȚT țt ĞG ğg İI ıi ŞS şs ŒO œo –- —- ‘' ’' “\" ”\" „\" ×x"

// Show returns a text as the kernel's default font can show it: letters that it lacks
// lose their accents, and whatever has no likeness becomes a question mark; missing is
// the first of those, or 0. Line breaks and other controls count as blanks.
func Show(text string) (shown string, missing rune) {
	shown = strings.Map(func(r rune) rune {
		switch {
		case r < ' ' || r == 0x7f || r == 0xa0:
			return ' '
		case r < 0x7f || strings.ContainsRune(font, r):
			return r
		}
		for pair := range strings.FieldsSeq(alike) {
			if p := []rune(pair); p[0] == r {
				return p[1]
			}
		}
		if missing == 0 {
			missing = r
		}
		return '?'
	}, text)
	return shown, missing
}
