package stages

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"reimager/config"
	"reimager/delivery"
)

// leaveReporter leaves in the new system, which is mounted, what delivers the record
// after its first boot. A disk too full for it does not keep a machine from landing.
func (r *Run) leaveReporter() {
	if !r.Config.Report.Named() {
		return
	}
	left, err := installReporter(newDir, r.Config)
	if err != nil {
		r.warn("leave what delivers the record: %v", err)
	}
	if len(left) > 0 {
		r.Report.Printf("report   left /%s", strings.Join(left, ", /"))
	}
}

func installReporter(dir string, c *config.Config) ([]string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	program := config.ProgramPath
	if _, err := os.Stat(program); errors.Is(err, os.ErrNotExist) {
		program = "" // the initrd was baked without it; the new system may have its own
	} else if err != nil {
		return nil, fmt.Errorf("look at %s: %w", program, err)
	}
	return delivery.Install(root, delivery.Settings{LogDir: c.New.LogDir, To: c.Report}, program)
}
