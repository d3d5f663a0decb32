package awskms

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/agentrouter/aikeys/internal/netaddr"
	"github.com/agentrouter/aikeys/sealer/kms"
)

// Scheme is the scheme of a key's URL.
const Scheme = "awskms"

// Forms shows the form of a URL, for messages.
const Forms = "awskms://<region>/<key id, ARN or alias/name>"

// Config says where a key is. AWS's default chain finds the credentials.
type Config struct {
	Region   string
	Key      string // id, ARN, or alias/<name>
	Endpoint string // of a VPC endpoint, if not the region's public one
	Profile  string // of the shared configuration files, if not the default one
}

var (
	region = regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-\d+$`)
	key    = regexp.MustCompile(`^(arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:)?(key/)?[A-Za-z0-9-]{1,64}$|^(arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:)?alias/[A-Za-z0-9/_-]{1,250}$`)
)

// ParseURL parses the URL of a key. It reads no file. Its error says what is wrong.
func ParseURL(text string) (Config, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != Scheme || u.User != nil || u.Fragment != "" || u.RawPath != "" {
		return Config{}, errors.New("must be " + Forms)
	}
	cfg := Config{Region: u.Host, Key: strings.TrimPrefix(u.Path, "/")}
	query, err := url.ParseQuery(u.RawQuery)
	switch {
	case err != nil || !key.MatchString(cfg.Key) || strings.HasPrefix(cfg.Key, "key/"):
		return Config{}, errors.New("must be " + Forms)
	case !region.MatchString(cfg.Region):
		return Config{}, fmt.Errorf("has no region such as eu-central-1: must be %s", Forms)
	case strings.HasPrefix(cfg.Key, "arn:") && strings.Split(cfg.Key, ":")[3] != cfg.Region:
		return Config{}, errors.New("names a region, and an ARN of another region")
	case strings.HasPrefix(cfg.Key, "alias/aws/") || strings.Contains(cfg.Key, ":alias/aws/"):
		return Config{}, errors.New("names a key that AWS manages: its policy can't be changed; make one of your own")
	}
	if err := kms.ReadParameters(query, map[string]*string{"endpoint": &cfg.Endpoint, "profile": &cfg.Profile}); err != nil {
		return Config{}, err
	}
	return cfg, checkEndpoint(cfg.Endpoint)
}

// checkEndpoint refuses an endpoint to which data keys would travel in the clear.
func checkEndpoint(text string) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || strings.Trim(u.Path, "/") != "" {
		return errors.New("has an endpoint that is not https://<host>")
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !netaddr.Parse(u.Hostname()).IsLoopback()) {
		return errors.New("has an endpoint without https; http is for 127.0.0.1 and ::1 alone")
	}
	return nil
}
