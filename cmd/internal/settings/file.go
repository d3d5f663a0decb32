package settings

import (
	"fmt"
	"os"
	"strings"
)

// fileSuffix ends the names of settings that name a file to read a value from, which may be a secret.
const fileSuffix = "-file"

// File is the Parse of a setting that names a file, which Content or OrFile reads: it takes every path, and stores nothing.
func File(string) error { return nil }

// Content is what the file holds that the setting names, without white space around it. An error names the setting.
func (d *Setting) Content() (string, error) {
	content, err := os.ReadFile(d.text)
	if err != nil {
		return "", fmt.Errorf("%s: %w", d.Given(), err)
	}
	return strings.TrimSpace(string(content)), nil
}

// OrFile stores what the file <name>-file holds, if it is set, in place of the value of the setting by that name. It
// returns the setting that decided, for complaints about the value; an error names those that are wrong.
func (s *Set) OrFile(name string, to *string) (*Setting, error) {
	value, file := s.Of(name), s.Of(name+fileSuffix)
	if file.text == "" {
		return value, nil
	}
	if value.origin != FromDefault {
		return nil, fmt.Errorf("%s and %s: give one of them, not both", value.Given(), file.Given())
	}
	content, err := file.Content()
	if err != nil {
		return nil, err
	}
	*to = content
	return file, nil
}
