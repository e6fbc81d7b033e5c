package upstream

import "testing"

func TestParseContentRange(t *testing.T) {
	for _, test := range []struct {
		text   string
		want   byteRange
		length int64 // of the body
		size   int64 // 0: an error
		end    int64
	}{
		{"bytes 5-9/10", byteRange{5, -1}, 5, 10, 10},
		{"Bytes 5-9/10", byteRange{5, -1}, -1, 10, 10},
		{"bytes 5-9/10", byteRange{4, -1}, 5, 0, 0},
		{"bytes 5-9/10", byteRange{5, -1}, 4, 0, 0},
		{"bytes 5-8/10", byteRange{5, -1}, 4, 0, 0},
		{"bytes 5-10/10", byteRange{5, -1}, 6, 0, 0},
		{"bytes 5-9/*", byteRange{5, -1}, 5, 0, 0},
		{"bytes */10", byteRange{5, -1}, 5, 0, 0},
		{"bytes 5-4/5", byteRange{5, -1}, 0, 0, 0},
		{"bytes +5-9/10", byteRange{5, -1}, 5, 0, 0},
		{"bytes 5--9/10", byteRange{5, -1}, 5, 0, 0},
		{"bytes 5-9/99999999999999999999", byteRange{5, -1}, 5, 0, 0},
		{"items 5-9/10", byteRange{5, -1}, 5, 0, 0},
		{"bytes=5-9/10", byteRange{5, -1}, 5, 0, 0},
		{"", byteRange{5, -1}, 5, 0, 0},
		{"bytes 5-6/10", byteRange{5, 2}, 2, 10, 7},
		{"bytes 5-6/10", byteRange{5, 2}, -1, 10, 7},
		{"bytes 5-9/10", byteRange{5, 50}, 5, 10, 10},
		{"bytes 5-6/10", byteRange{5, 3}, 2, 10, 7}, // less than was asked for
		{"bytes 5-7/10", byteRange{5, 2}, 3, 0, 0},
		{"bytes 6-7/10", byteRange{5, 3}, 2, 0, 0},
		{"bytes 5-6/10", byteRange{5, 2}, 3, 0, 0},
		{"bytes 5-10/10", byteRange{5, 6}, 6, 0, 0},
		{"bytes 0-4/*", byteRange{0, 5}, 5, 0, 0},
	} {
		size, end, err := parseContentRange(test.text, test.want, test.length)
		if size != test.size || end != test.end || (err == nil) != (test.size > 0) {
			t.Errorf("parseContentRange(%q, %v, %d) = %d, %d, %v, want %d, %d", test.text, test.want, test.length, size, end, err, test.size, test.end)
		}
	}
}
