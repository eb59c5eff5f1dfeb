package stages

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseParameters(t *testing.T) {
	for _, tt := range []struct {
		cmdline string
		want    Parameters
	}{
		{"", Parameters{}},
		{"quiet panic=10 reimager.job=UUID=a-b:/x\n", Parameters{Job: "UUID=a-b:/x"}},
		{"reimager.job=a reimager.job=b", Parameters{Job: "b"}},
		{"reimager.rehearse reimager.cancel reimager.verbose", Parameters{Rehearse: true, Cancel: true, Verbose: true}},
		{"reimager.lifeboat=RUN@2048", Parameters{Lifeboat: "RUN@2048"}},
		{"reimager.media reimager.once", Parameters{Media: true, Once: true}},
		{"reimager.rehearse=0 reimager.cancel=no", Parameters{Rehearse: true, Cancel: true}},
		{"xreimager.cancel reimager.cancelled reimager.write=1 reimager.", Parameters{Unknown: []string{"reimager.cancelled", "reimager.write", "reimager."}}},
	} {
		if diff := cmp.Diff(tt.want, parseParameters(tt.cmdline)); diff != "" {
			t.Errorf("parseParameters(%q) (-want +got):\n%s", tt.cmdline, diff)
		}
	}
}
