package main

import (
	"errors"
	"fmt"
	"os"

	"reimager/config"
	"reimager/delivery"
)

// installReporter leaves in this system what delivers the record of a run that comes
// back to it. A configuration that names no place takes away what an earlier arm has
// left, unless that has something to deliver yet.
func installReporter(c *config.Config) error {
	if !c.Report.Named() {
		return removeReporter()
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("install %s: %w", delivery.UnitName, err)
	}
	root, err := os.OpenRoot("/")
	if err != nil {
		return fmt.Errorf("install %s: %w", delivery.UnitName, err)
	}
	defer root.Close()
	// The program may have come with the release, from a stick that is gone by then.
	_, err = delivery.Install(root, settings(c), program)
	return err
}

func settings(c *config.Config) delivery.Settings {
	return delivery.Settings{LogDir: c.New.LogDir, To: c.Report}
}

// removeReporter takes back what installReporter has left, unless a record of an
// earlier run has still to be delivered.
func removeReporter() error {
	m := thisMachine("")
	if _, err := settingsOf(m.root); errors.Is(err, os.ErrNotExist) || m.pending() {
		return nil
	}
	root, err := os.OpenRoot(m.root)
	if err != nil {
		return fmt.Errorf("remove %s: %w", delivery.UnitName, err)
	}
	defer root.Close()
	return delivery.Remove(root)
}
