package models_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"gorm.io/gorm"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// The cases are errors that tests cannot cause, or not on every machine.
func TestDriverErrorsBecomeSentinels(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		store := modelstest.OpenStore(t, e.URL(t), models.Options{})
		cases := map[error]error{
			gorm.ErrRecordNotFound:   models.ErrNotFound,
			gorm.ErrDuplicatedKey:    models.ErrAlreadyExists,
			context.DeadlineExceeded: models.ErrUnavailable,
			sql.ErrConnDone:          models.ErrUnavailable,
			sql.ErrTxDone:            models.ErrUnavailable,
			driver.ErrBadConn:        models.ErrUnavailable,
		}
		if e == modelstest.EnginePostgres {
			for code, want := range map[string]error{
				"23505": models.ErrAlreadyExists, // unique_violation
				"08006": models.ErrUnavailable,   // connection_failure
				"08P01": models.ErrUnavailable,   // protocol_violation, as poolers answer when they have no server
				"25006": models.ErrUnavailable,   // read_only_sql_transaction
				"25P03": models.ErrUnavailable,   // idle_in_transaction_session_timeout
				"3D000": models.ErrUnavailable,   // invalid_catalog_name
				"40001": models.ErrUnavailable,   // serialization_failure
				"40P01": models.ErrUnavailable,   // deadlock_detected
				"42P01": models.ErrUnavailable,   // undefined_table
				"53100": models.ErrUnavailable,   // disk_full
				"53300": models.ErrUnavailable,   // too_many_connections
				"55P03": models.ErrUnavailable,   // lock_not_available
				"57014": models.ErrUnavailable,   // query_canceled
				"57P01": models.ErrUnavailable,   // admin_shutdown
			} {
				cases[&pgconn.PgError{Code: code}] = want
			}
			cases[&net.OpError{Op: "read", Err: syscall.ECONNRESET}] = models.ErrUnavailable
			cases[io.ErrUnexpectedEOF] = models.ErrUnavailable
		}
		for cause, want := range cases {
			got := models.Classify(store, fmt.Errorf("wrapped: %w", cause))
			require.ErrorIs(t, got, want, "%v", cause)
			require.ErrorIs(t, got, cause)
		}
		// A bug has no sentinel.
		require.NoError(t, models.Classify(store, nil))
		for _, cause := range []error{
			errors.New("bug"),
			&pgconn.PgError{Code: "42601"}, // syntax_error
			&pgconn.PgError{Code: "5"},
			&pgconn.PgError{},
		} {
			require.Equal(t, cause, models.Classify(store, cause))
		}
	})
}
