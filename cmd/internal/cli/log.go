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

// NewLogger returns the log that settings ask for: one of the formats, and the least level to log.
func NewLogger(to io.Writer, format, level string) *slog.Logger {
	var least slog.Level
	_ = least.UnmarshalText([]byte(level)) // settings have checked it
	options := &slog.HandlerOptions{Level: least}
	if format == LogText || format == LogAuto && isTerminal(to) {
		return slog.New(slog.NewTextHandler(to, options))
	}
	options.ReplaceAttr = durationInMS
	return slog.New(slog.NewJSONHandler(to, options))
}

// durationInMS gives a duration's name its unit: slog's JSON has nanoseconds, which nobody expects.
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
