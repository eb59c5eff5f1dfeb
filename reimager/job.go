package main

import (
	"crypto/rand"
	"time"

	"reimager/check"
	"reimager/config"
)

// newJob says what the initrd has to know of this machine.
func newJob(x *check.Examination, rehearse bool) (*config.Job, error) {
	back, err := wayBack("/")
	if err != nil {
		return nil, err
	}
	r := x.Release
	return &config.Job{
		Format: config.JobFormat, RunID: rand.Text(), Armed: time.Now().UTC().Truncate(time.Second),
		Image:  config.JobImage{Source: x.Source.Source(), Bytes: r.ImageBytes, SHA256: r.ImageDigest.String()},
		Target: x.Identity, OldRoot: x.Root.UUID, Rehearse: rehearse, Machine: x.Machine, Release: r.Job(), WayBack: back,
	}, nil
}
