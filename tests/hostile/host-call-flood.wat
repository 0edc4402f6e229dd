;; Calls the host as often as it can.
(module
  (import "sandpost:plugin/config@0.1.0" "all" (func $all (param i32)))
  ;; @answers
  ;; @heap
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (loop $more
      (call $all (i32.const 4096))
      (global.set $heap (i32.const 131072))
      (br $more))
    unreachable))
