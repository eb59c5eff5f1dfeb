# Recipes of reimager; `just --list` explains them. `./dev RECIPE` installs what is missing first.

set shell := ["bash", "-euo", "pipefail", "-c"]

version := `git describe --always --dirty 2>/dev/null || echo unknown`
go_build := "CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=" + version + "'"
staticcheck := "honnef.co/go/tools/cmd/staticcheck@v0.8.2"
govulncheck := "golang.org/x/vuln/cmd/govulncheck@v1.9.0"

# show this list
default:
    @just --list --unsorted

# build the three programs into build/bin
build:
    @mkdir -p build/bin
    @for program in init imagebuild reimager; do {{go_build}} -o build/bin/$program ./$program; done

# everything that has to hold: linters, unit tests, fuzz corpora, QEMU tests
test: lint unit qemu

# gofmt, go vet, staticcheck, shellcheck, and govulncheck where its data can be reached
lint:
    @test -z "$(gofmt -l . | tee /dev/stderr)" || { echo "run: just fmt" >&2; exit 1; }
    go vet ./...
    go run {{staticcheck}} ./...
    shellcheck dev .ci/run
    @if curl --silent --fail --max-time 10 --output /dev/null https://vuln.go.dev/index/db.json; \
        then go run {{govulncheck}} ./...; \
        else echo "govulncheck: not run, its data at vuln.go.dev cannot be reached from here"; fi

# unit tests, with the committed fuzz corpora
unit:
    go test $(go list ./... | grep -v -e /qemu-tests -e '/lifeboat$')
    @go test -v ./lifeboat | grep -v -e '^=== ' -e '^ *--- PASS' -e '^PASS'

# a machine's whole life in QEMU, with its disks compared from the host
qemu: build
    go test -count=1 -timeout 80m -parallel 2 ./qemu-tests/...
    @echo "of the old Debians, 12 on a BIOS was replaced; 11, 12 and 13 on BIOS and UEFI: just debians"

# each old Debian replaced by Debian 13, on BIOS and UEFI; builds them, which takes half an hour the first time
debians: build
    go test -v -count=1 -timeout 6h -parallel 1 ./qemu-tests -run TestDebians -debians

# fuzz every parser for a while each (just fuzz 5m)
fuzz time="20s":
    @for package in $(go list ./...); do \
        for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do \
            echo "== $package $target"; go test -run '^$' -fuzz "^$target\$" -fuzztime {{time}} -fuzzminimizetime 1x "$package"; \
        done; done

# gofmt everything
fmt:
    gofmt -w .

# watch a machine being replaced: `just demo`, or `just demo debian` for real Debian systems
demo system="kiosk": build
    go run ./qemu-tests/demo {{system}}

# the imaging engine against lbzip2, dd and bmaptool, and downtime against a shell script; alternating runs, median ratios
bench runs="3": build
    go run ./qemu-tests/bench/engine -runs {{runs}}
    go test ./retain -run '^$' -bench BesideTar -benchtime {{runs}}x
    go test ./lifeboat -run '^$' -bench Boarding -benchtime {{runs}}x
    go run ./qemu-tests/bench/downtime -runs {{runs}}

# the same tests with larger numbers, for a night: random trees, accounts, system calls that fail, every fuzz target, every old Debian
soak trees="10000" time="10m" faults="3000": build
    go test -timeout 6h ./retain -run TestTrees -trees {{trees}} -seed $RANDOM
    go test -v -timeout 6h ./lifeboat -run TestEveryCut -sim.variants 60 -sim.seed $RANDOM
    just fuzz {{time}}
    just debians
    go test -count=5 -timeout 6h -parallel 2 ./qemu-tests/...
    go test -count=1 -timeout 12h ./qemu-tests -run TestEveryCallFails -faults {{faults}}
    cd qemu-tests && go test -count=1 -timeout 12h -parallel 2 -run TestRecordedRun -prefixes 120 -seed $RANDOM
    go test -count=1 -timeout 2h ./qemu-tests -run 'TestLowMemory|TestDamagedAboard' -lowmemory 384 -damages 100
    just powercut 200

# N machines lose their power at random moments, a third of them several times; their disks are compared in the end
powercut n="60" seed=`echo $RANDOM`: build
    cd qemu-tests && go test -count=1 -timeout 24h -parallel 3 -run TestPulledPlug -powercuts {{n}} -seed {{seed}}

# remove what was built here; the cache of systems and kernels stays
clean:
    rm -rf build
