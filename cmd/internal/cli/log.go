package cli

import (
	"io"
	"log/slog"
	"os"
	"time"
)

// The formats of a log.
const (
	LogAuto = "auto" // text on a terminal, JSON elsewhere
	LogJSON = "json"
	LogText = "text"
)

// NewLogger returns a logger that writes in one of the formats and leaves out messages below a level.
func NewLogger(to io.Writer, format, level string) *slog.Logger {
	var least slog.Level
	_ = least.UnmarshalText([]byte(level)) // the settings have been checked
	options := &slog.HandlerOptions{Level: least}
	if format == LogText || format == LogAuto && isTerminal(to) {
		return slog.New(slog.NewTextHandler(to, options))
	}
	options.ReplaceAttr = durationInMS
	return slog.New(slog.NewJSONHandler(to, options))
}

// durationInMS writes a duration in milliseconds, under a name with the unit. slog's JSON would write nanoseconds.
func durationInMS(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		return slog.Float64(a.Key+"_ms", float64(a.Value.Duration())/float64(time.Millisecond))
	}
	return a
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
