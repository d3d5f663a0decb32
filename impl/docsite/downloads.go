package docsite

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ErrDownloads is wrapped by New's error if the folder of downloads can't be read.
var ErrDownloads = errors.New("can't read the downloads")

// maxArchive is the largest SDK in bytes. SDKs stay in memory. They have tens of KiB.
const maxArchive = 8 << 20

// sdk is one language's SDK. File is empty if it can't be downloaded.
type sdk struct {
	Language string // as in the archive's name
	Version  string
	File     string
	SHA256   string
	body     []byte
}

// archiveName matches the names that "make dist" gives to SDKs. No other file of the folder is served.
var archiveName = regexp.MustCompile(`^agentrouter-(go|python|typescript)-([0-9]{1,5}\.[0-9]{1,5}\.[0-9]{1,5})\.tar\.gz$`)

// loadDownloads looks through the folder of downloads once. It refuses links out of the folder.
func loadDownloads(folder string) ([]sdk, []program, error) {
	sdks := []sdk{{Language: "go"}, {Language: "python"}, {Language: "typescript"}}
	if folder == "" {
		return sdks, nil, nil
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrDownloads, err)
	}
	defer func() { _ = root.Close() }() // nothing was written
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrDownloads, err)
	}
	for i := range sdks {
		if err := sdks[i].load(root, entries); err != nil {
			return nil, nil, fmt.Errorf("%w: %s: %w", ErrDownloads, sdks[i].File, err)
		}
	}
	programs, err := loadPrograms(root, folder, entries)
	return sdks, programs, err
}

// load reads the newest archive of the SDK's language, if there is one.
func (s *sdk) load(root *os.Root, entries []fs.DirEntry) (err error) {
	for _, entry := range entries {
		parts := archiveName.FindStringSubmatch(entry.Name())
		if len(parts) == 0 || parts[1] != s.Language {
			continue
		}
		if s.File == "" || compareVersions(parts[2], s.Version) > 0 {
			s.File, s.Version = entry.Name(), parts[2]
		}
	}
	if s.File == "" {
		return nil
	}
	s.body, err = readArchive(root, s.File)
	s.SHA256 = fmt.Sprintf("%x", sha256.Sum256(s.body))
	return err
}

func readArchive(root *os.Root, name string) ([]byte, error) {
	info, err := root.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() == 0 || info.Size() > maxArchive {
		return nil, fmt.Errorf("must be a file of 1 byte to %d MiB", maxArchive>>20)
	}
	return root.ReadFile(name)
}

// Path returns where the archive is served.
func (s sdk) Path() string { return "/docs/downloads/" + s.File }

// Stem returns the folder that the archive unpacks to.
func (s sdk) Stem() string { return strings.TrimSuffix(s.File, ".tar.gz") }

// Size returns the archive's size as people read it.
func (s sdk) Size() string { return fmt.Sprintf("%.1f KiB", float64(len(s.body))/1024) }

// compareVersions compares versions such as 1.2.3 and 1.2.3+4.gabc1234567 by their three numbers, and then by the
// number of commits since.
func compareVersions(a, b string) int {
	numbers := func(version string) []string { return append(strings.FieldsFunc(version, isSeparator), "0")[:4] }
	return slices.CompareFunc(numbers(a), numbers(b), func(x, y string) int {
		m, _ := strconv.Atoi(x) // "dirty" is 0; the rest is digits, as the patterns of names require
		n, _ := strconv.Atoi(y)
		return cmp.Compare(m, n)
	})
}

func isSeparator(r rune) bool { return r == '.' || r == '+' }
