package vm

import (
	"errors"
	"fmt"
	"os"

	"reimager/report"
)

// UEFI is OVMF, UEFI firmware for QEMU: its code, and a file of variables that the
// machine writes to.
type UEFI struct{ Code, Variables string }

// FindUEFI finds OVMF, with variables that are nobody's yet and must not be written.
func FindUEFI() (*UEFI, error) {
	const dir = "/usr/share/OVMF/"
	for _, suffix := range []string{"_4M", ""} {
		u := &UEFI{Code: dir + "OVMF_CODE" + suffix + ".fd", Variables: dir + "OVMF_VARS" + suffix + ".fd"}
		_, codeErr := os.Stat(u.Code)
		_, variablesErr := os.Stat(u.Variables)
		if codeErr == nil && variablesErr == nil {
			return u, nil
		}
	}
	return nil, report.Hint(errors.New("find UEFI firmware: there is no "+dir+"OVMF_CODE_4M.fd"), "apt-get install ovmf")
}

// NewUEFI is a machine's own OVMF, whose variables are kept in a file, which is made.
func NewUEFI(variables string) (*UEFI, error) {
	u, err := FindUEFI()
	if err != nil {
		return nil, err
	}
	fresh, err := os.ReadFile(u.Variables)
	if err == nil {
		err = os.WriteFile(variables, fresh, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("copy UEFI variables: %w", err)
	}
	return &UEFI{Code: u.Code, Variables: variables}, nil
}

func (u *UEFI) args() []string {
	return []string{
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + u.Code,
		"-drive", "if=pflash,unit=1,format=raw,file=" + u.Variables,
	}
}
