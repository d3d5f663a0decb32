package aikeys

import "time"

// convert maps rows to their wire form. The result is never nil, so it is never null on the wire.
func convert[Row, Wire any](rows []Row, one func(Row) Wire) []Wire {
	out := make([]Wire, len(rows))
	for i, row := range rows {
		out[i] = one(row)
	}
	return out
}

// optional returns nil for a zero value, which leaves the member out of the answer.
func optional[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// wireTime converts microseconds since 1970.
func wireTime(micros int64) time.Time { return time.UnixMicro(micros).UTC() }

// optionalTime is wireTime with nil for 0, which means never.
func optionalTime(micros int64) *time.Time {
	if micros == 0 {
		return nil
	}
	return new(wireTime(micros))
}
