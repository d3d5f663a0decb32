package docsite

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// program is an archive or a package of the programs. It is too large to keep in memory: each request reads the file.
type program struct {
	Name     string // aikeys is all programs
	System   string // linux, darwin or windows; debian for a package
	Arch     string
	Version  string
	File     string
	SHA256   string
	folder   string
	size     int64
	modified time.Time
}

// The names that "make dist" gives to archives and packages.
var (
	hash           = regexp.MustCompile(`^[0-9a-f]{64}$`) // SHA-256 in hexadecimal
	programArchive = regexp.MustCompile(`^(aikeys|tare)-(` + programVersion + `)-(linux|darwin|windows)-(amd64|arm64)\.(?:tar\.gz|zip)$`)
	programPackage = regexp.MustCompile(`^(aikeysd|aikeys-gateway|secrets-svc|tare)_(` + programVersion + `)_(amd64|arm64)\.deb$`)
)

const programVersion = `[0-9]{1,5}\.[0-9]{1,5}\.[0-9]{1,5}(?:\+[0-9A-Za-z.]{1,64})?`

// parseProgram parses the name of a file, and reports whether it is a name that "make dist" gives.
func parseProgram(name string) (p program, isProgram bool) {
	if m := programArchive.FindStringSubmatch(name); m != nil {
		return program{Name: m[1], Version: m[2], System: m[3], Arch: m[4], File: name}, true
	}
	if m := programPackage.FindStringSubmatch(name); m != nil {
		return program{Name: m[1], Version: m[2], System: "debian", Arch: m[3], File: name}, true
	}
	return program{}, false
}

// loadPrograms returns the newest file of each program and system. Their hashes come from the files that "make dist" left beside
// them: hashing all programs would make the start slow.
func loadPrograms(root *os.Root, folder string, entries []fs.DirEntry) ([]program, error) {
	var programs []program
	for _, entry := range entries {
		p, isProgram := parseProgram(entry.Name())
		if !isProgram {
			continue
		}
		same := slices.IndexFunc(programs, func(q program) bool { return q.Name == p.Name && q.System == p.System && q.Arch == p.Arch })
		if same < 0 {
			programs = append(programs, p)
		} else if compareVersions(p.Version, programs[same].Version) > 0 {
			programs[same] = p
		}
	}
	for i := range programs {
		p := &programs[i]
		p.folder = folder
		if err := p.readFacts(root); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrDownloads, p.File, err)
		}
	}
	slices.SortStableFunc(programs, func(a, b program) int { return strings.Compare(a.order(), b.order()) })
	return programs, nil
}

var errNoHash = errors.New(`its hash is not in a file beside it; "make dist" writes both`)

// readFacts reads the file's size and hash.
func (p *program) readFacts(root *os.Root) error {
	info, err := root.Stat(p.File)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return errors.New("must be a file with content")
	}
	p.size, p.modified = info.Size(), info.ModTime()
	sums, err := root.Open(p.File + ".sha256")
	if err != nil {
		return fmt.Errorf("%w: %w", errNoHash, err)
	}
	defer func() { _ = sums.Close() }() // nothing was written
	line, err := io.ReadAll(io.LimitReader(sums, 1<<10))
	if err != nil {
		return err
	}
	sum, isOfFile := strings.CutSuffix(string(line), "  "+p.File+"\n")
	if !isOfFile || !hash.MatchString(sum) {
		return errNoHash
	}
	p.SHA256 = sum
	return nil
}

// order returns a text to sort by. Archives come before packages, and archives of all programs before those of single
// ones.
func (p program) order() string {
	kind := "0"
	if p.System == "debian" {
		kind = "1"
	}
	return kind + p.Name + " " + p.System + " " + p.Arch
}

// Path returns where the file is served.
func (p program) Path() string { return "/docs/downloads/" + p.File }

// Size returns the file's size as people read it.
func (p program) Size() string { return fmt.Sprintf("%.1f MiB", float64(p.size)/(1<<20)) }

// SystemName returns the system's name as people know it.
func (p program) SystemName() string {
	return map[string]string{"linux": "Linux", "darwin": "macOS", "windows": "Windows", "debian": "Debian, Ubuntu"}[p.System]
}

// What says which programs the file has.
func (p program) What() string {
	if p.Name == "aikeys" {
		return "all programs"
	}
	return p.Name
}

// downloadTime is how long a file may take. The listener's own limit is meant for small answers.
const downloadTime = 10 * time.Minute

// ServeHTTP answers GET and HEAD. If the file was replaced, the answer is "not found" until the next start, which reads
// the new hash.
func (p program) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	file, err := os.OpenInRoot(p.folder, p.File)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer func() { _ = file.Close() }() // nothing was written
	info, err := file.Stat()
	if err != nil || info.Size() != p.size || !info.ModTime().Equal(p.modified) {
		http.NotFound(w, r)
		return
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(downloadTime)) // without it, the listener's own limit holds
	header := w.Header()
	header.Set("Cache-Control", "no-cache")
	header.Set("Content-Type", "application/octet-stream")
	header.Set("ETag", `"`+p.SHA256[:32]+`"`)
	header.Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", p.File))
	setSafetyHeaders(header, filePolicy)
	http.ServeContent(w, r, "", time.Time{}, file)
}
