"""Tests of how ncu's reports are read; they need neither a GPU nor a package.

    python3 benches/kernels/test_counters.py
"""
import unittest

import attention
import counters

REPORT = """==PROF== Connected to process 7
"ID","Kernel Name","Grid Size","Block Size","gpu__time_duration.sum","lts__throughput.avg.pct_of_peak_sustained_elapsed","launch__registers_per_thread",\
"sm__inst_executed_pipe_tensor_op_hmma.avg.pct_of_peak_sustained_active",\
"smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio","smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio"
"","","","","ns","%","register/thread","%","inst","inst"
"0","bespoke_gemm","(96, 1, 1)","(384, 1, 1)","1,250.0","2.5","168","12.5","0.25","7.5"
"1","bespoke_gemm","(96, 1, 1)","(384, 1, 1)","2500","2.5","168","n/a","0.25","7.5"
"""


class Reports(unittest.TestCase):
    def test_kernels_have_values_with_units(self):
        first, second = counters.kernels(REPORT)
        self.assertEqual(counters.found(first, "gpu__time_duration.sum"), 1.25)
        self.assertEqual(counters.found(first, "lts__throughput.avg.pct_of_peak_sustained_elapsed"), 2.5)
        self.assertIsNone(counters.found(first, "of another card"))
        self.assertEqual(counters.found(second, "gpu__time_duration.sum"), 2.5)

    def test_what_is_no_report_has_no_kernels(self):
        for text in ("", "==ERROR== no permission\n", '"ID","Kernel Name"\n"",""\n'):
            self.assertEqual(counters.kernels(text), [])

    def test_a_line_has_a_cell_for_every_column_and_the_largest_stalls_first(self):
        case = attention.case(1, 2, 2, 24, 24, 16)
        for kernel in [*counters.kernels(REPORT), {}]:
            self.assertEqual(len(counters.line(case, "bespoke", kernel)), len(counters.HEAD))
        row = dict(zip(counters.HEAD, counters.line(case, "bespoke", counters.kernels(REPORT)[0])))
        self.assertEqual(row["waits"], "long scoreboard 7.50, barrier 0.250")
        self.assertEqual((row["kernel"], row["grid"], row["tensor cores %"]), ("bespoke_gemm", "(96,1,1)", "12.5"))


if __name__ == "__main__":
    unittest.main()
