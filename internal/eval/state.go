package eval

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// State remembers the finished units (chunks, tasks) of an evaluation in a file of JSON lines, so that an interrupted
// evaluation goes on where it stopped. One file may serve many evaluations: each line names the run it belongs to, a
// digest of everything that its result depends on. A nil *State remembers nothing. Not safe for concurrent use.
type State struct {
	f        *os.File
	path     string
	run      string
	settings json.RawMessage // written before the run's first unit
	done     map[int]json.RawMessage
}

// stateLine is a line of the file: the settings of a run, or the result of one of its units.
type stateLine struct {
	Run      string          `json:"run"`
	Settings json.RawMessage `json:"settings,omitempty"`
	Unit     *int            `json:"unit,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
}

const (
	maxStateBytes = 1 << 30
	lineStart     = `{"run":"`
)

// OpenState opens or creates the file at path and finds the units that were finished under the same settings: any
// JSON value that holds the model's identity and everything else on which the results depend. A last
// line that was cut off when the program ended is dropped.
func OpenState(path string, settings any) (*State, error) {
	b, err := json.Marshal(settings)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(b)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	s := &State{f: f, path: path, run: hex.EncodeToString(digest[:8]), settings: b, done: map[int]json.RawMessage{}}
	if err := s.read(); err != nil {
		f.Close()
		return nil, err
	}
	return s, nil
}

func (s *State) read() error {
	b, err := io.ReadAll(io.LimitReader(s.f, maxStateBytes+1))
	if err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	if len(b) > maxStateBytes {
		return fmt.Errorf("%s: the state file has more than %d bytes (use another one)", s.path, maxStateBytes)
	}
	end := 0
	for n := 1; ; n++ {
		length := bytes.IndexByte(b[end:], '\n')
		if length < 0 {
			break
		}
		if err := s.readLine(b[end : end+length]); err != nil {
			return fmt.Errorf("%s: line %d, offset %d: %w (is it a state file? name another one)", s.path, n, end, err)
		}
		end += length + 1
	}
	if n := min(len(lineStart), len(b)-end); string(b[end:end+n]) != lineStart[:n] {
		return fmt.Errorf("%s: offset %d: not a line of a state file (name another one)", s.path, end)
	}
	if err := s.f.Truncate(int64(end)); err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	_, err = s.f.Seek(int64(end), io.SeekStart)
	return err
}

func (s *State) readLine(b []byte) error {
	var l stateLine
	if err := json.Unmarshal(b, &l); err != nil {
		return err
	}
	if l.Run == "" {
		return fmt.Errorf("the line names no run")
	}
	switch {
	case l.Run != s.run:
	case l.Unit != nil:
		s.done[*l.Unit] = l.Result
	default:
		s.settings = nil
	}
	return nil
}

// Len returns how many units of this evaluation are finished.
func (s *State) Len() int {
	if s == nil {
		return 0
	}
	return len(s.done)
}

// get fills result with what put stored for the unit, if it did.
func (s *State) get(unit int, result any) (bool, error) {
	if s == nil {
		return false, nil
	}
	b, ok := s.done[unit]
	if !ok {
		return false, nil
	}
	if err := json.Unmarshal(b, result); err != nil {
		return false, fmt.Errorf("%s: result of unit %d: %w", s.path, unit, err)
	}
	return true, nil
}

// put stores the result of a unit.
func (s *State) put(unit int, result any) error {
	if s == nil {
		return nil
	}
	b, err := json.Marshal(result)
	if err != nil {
		return fmt.Errorf("%s: unit %d: %w", s.path, unit, err)
	}
	var lines bytes.Buffer
	e := json.NewEncoder(&lines)
	if s.settings != nil {
		if err := e.Encode(stateLine{Run: s.run, Settings: s.settings}); err != nil {
			return err
		}
	}
	if err := e.Encode(stateLine{Run: s.run, Unit: &unit, Result: b}); err != nil {
		return err
	}
	if _, err := s.f.Write(lines.Bytes()); err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	s.settings, s.done[unit] = nil, b
	return nil
}

// Close closes the file.
func (s *State) Close() error {
	if s == nil {
		return nil
	}
	return s.f.Close()
}
