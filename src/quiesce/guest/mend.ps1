# Mends one thing in a Windows guest: ACTION is the first word of a line below. It says what it did in
# one line and ends with 0, or says why not on standard error and ends with 1. Windows PowerShell 2.0 to 5.1.
param([string]$action)

# ACTION | the service that must be there, or - | a line for cmd.exe. Tests run these very lines under
# Wine. A "detached" one outlives the agent that started this. Status 1056 is "it runs already".
$steps = @'
start-provider | QEMU Guest Agent VSS Provider | sc.exe config "QEMU Guest Agent VSS Provider" start= demand
start-provider | QEMU Guest Agent VSS Provider | sc.exe start "QEMU Guest Agent VSS Provider"
start-provider | IaasVmProvider | sc.exe config "IaasVmProvider" start= auto
start-provider | IaasVmProvider | sc.exe start "IaasVmProvider"
vss-copy | QEMU Guest Agent VSS Provider | reg.exe add "HKLM\SYSTEM\CurrentControlSet\Services\QEMU Guest Agent VSS Provider" /v VssOption /t REG_DWORD /d 5 /f
vss-copy | - | reg.exe add "HKLM\SOFTWARE\MICROSOFT\BCDRAGENT" /v USEVSSCOPYBACKUP /t REG_SZ /d TRUE /f
restart-qga | QEMU-GA | detached ping.exe -n 4 127.0.0.1 & net.exe stop "QEMU-GA" & net.exe start "QEMU-GA"
'@

$runner = "$env:SystemRoot\Sysnative\cmd.exe"  # the 64-bit one, as seen from a 32-bit agent
if (-not (Test-Path $runner)) { $runner = "$env:SystemRoot\System32\cmd.exe" }

# The exit status and what a line printed.
function Invoke-Line([string]$line) {
    if ($line -match '^detached (.*)') {
        return ([wmiclass]'Win32_Process').Create("$runner /d /s /c `"$($matches[1])`"").ReturnValue
    }
    $start = New-Object Diagnostics.ProcessStartInfo
    $start.FileName = $runner
    $start.Arguments = '/d /s /c "(' + $line + ') 2>&1"'
    $start.UseShellExecute = $false
    $start.CreateNoWindow = $true
    $start.RedirectStandardOutput = $true
    $process = [Diagnostics.Process]::Start($start)
    $said = $process.StandardOutput.ReadToEnd()
    $process.WaitForExit()
    $process.ExitCode
    $said
}

function Write-Line([string]$text) {
    $bytes = (New-Object Text.UTF8Encoding $false).GetBytes($text + "`n")
    $out = [Console]::OpenStandardOutput()
    $out.Write($bytes, 0, $bytes.Length)
    $out.Flush()
}

$done = @()
foreach ($step in ($steps -split "`r?`n" | Where-Object { $_ })) {
    $name, $service, $line = $step -split ' \| ', 3
    if ($name -ne $action) { continue }
    if ($service -ne '-' -and @(Invoke-Line "sc.exe query `"$service`"")[0] -ne 0) { continue }
    $result = @(Invoke-Line $line)
    if (@(0, 1056) -notcontains $result[0]) {
        $said = $result[1] -replace '\s+', ' '
        [Console]::Error.WriteLine("$line ended with $($result[0]): $said")
        exit 1
    }
    $done += $line
}
if ($done.Count -eq 0) {
    [Console]::Error.WriteLine("there is nothing in this guest that $action could be done to")
    exit 1
}
Write-Line ('Done: ' + ($done -join '; '))
exit 0
