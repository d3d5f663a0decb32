package docsite

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ErrDownloads is wrapped by what [New] returns when the folder of downloads can't be read.
var ErrDownloads = errors.New("can't read the downloads")

// maxArchive is the most that an SDK may weigh: they stay in memory, and are tens of KiB.
const maxArchive = 8 << 20

// sdk is one language's SDK. File is empty where there is none to download.
type sdk struct {
	Language string // in the name of its archive
	Version  string
	File     string
	SHA256   string
	body     []byte
}

// archiveName is what make dist calls an SDK. Nothing else in the folder is ever served.
var archiveName = regexp.MustCompile(`^agentrouter-(go|python|typescript)-([0-9]{1,5}\.[0-9]{1,5}\.[0-9]{1,5})\.tar\.gz$`)

// languages are those of the SDKs, in the pages' order.
func languages() []string { return []string{"go", "python", "typescript"} }

// loadSDKs reads the newest archive of each language. A link that leads out of the folder is not followed.
func loadSDKs(folder string) ([]sdk, error) {
	sdks := make([]sdk, 0, len(languages()))
	for _, language := range languages() {
		sdks = append(sdks, sdk{Language: language})
	}
	if folder == "" {
		return sdks, nil
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDownloads, err)
	}
	defer func() { _ = root.Close() }() // it was only read
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDownloads, err)
	}
	for _, entry := range entries {
		parts := archiveName.FindStringSubmatch(entry.Name())
		if parts == nil {
			continue
		}
		at := &sdks[slices.Index(languages(), parts[1])]
		if at.File == "" || compareVersions(parts[2], at.Version) > 0 {
			at.File, at.Version = entry.Name(), parts[2]
		}
	}
	for i := range sdks {
		if sdks[i].File == "" {
			continue
		}
		if err := sdks[i].read(root); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrDownloads, sdks[i].File, err)
		}
	}
	return sdks, nil
}

func (s *sdk) read(root *os.Root) error {
	info, err := root.Stat(s.File)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() == 0 || info.Size() > maxArchive {
		return fmt.Errorf("not a file of 1 byte to %d MiB", maxArchive>>20)
	}
	file, err := root.Open(s.File)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // it was only read
	if s.body, err = io.ReadAll(io.LimitReader(file, maxArchive)); err != nil {
		return err
	}
	sum := sha256.Sum256(s.body)
	s.SHA256 = hex.EncodeToString(sum[:])
	return nil
}

// Path is where the archive is served.
func (s sdk) Path() string { return "/docs/downloads/" + s.File }

// Stem is the folder that the archive unpacks to.
func (s sdk) Stem() string { return strings.TrimSuffix(s.File, ".tar.gz") }

// Size is for people.
func (s sdk) Size() string { return fmt.Sprintf("%.1f KiB", float64(len(s.body))/1024) }

func (s sdk) resource() resource {
	return resource{contentType: "application/gzip", content: contentOf(s.body), attachment: s.File}
}

// compareVersions compares versions of three numbers.
func compareVersions(a, b string) int {
	return slices.CompareFunc(strings.Split(a, "."), strings.Split(b, "."), func(x, y string) int {
		m, _ := strconv.Atoi(x) // both are digits
		n, _ := strconv.Atoi(y)
		return cmp.Compare(m, n)
	})
}
